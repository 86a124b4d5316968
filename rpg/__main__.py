"""`python -m rpg`, the same as the console script `rpg`."""

from rpg.cli import main

if __name__ == "__main__":
    main()
