"""What every part of the package needs: files, devices, random numbers, errors."""
