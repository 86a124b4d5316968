"""Helpers for every part of the package: files, devices, random numbers, errors."""
