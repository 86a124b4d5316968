"""`python -m rpg`, the same as the console script `rpg`."""

import os
import sys
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> None:
    """Run the command `arguments` in this process, and record its usage where the environment names a file."""
    from rpg.cli import main
    from rpg.pipeline.usage import recorded

    with recorded():
        main(arguments)


def start() -> None:
    """Run the command line in a fork of the pipeline's fork server, if there is one, or else in this process."""
    arguments = sys.argv[1:]
    if address := os.environ.get("RPG_FORKSERVER"):
        from rpg.pipeline.forkserver import delegate

        code = delegate(address, arguments)
        if code is not None:
            sys.exit(code)
    run(arguments)


if __name__ == "__main__":
    start()
