"""`python -m benchmarks NAME`: prints a table and writes its numbers as JSON."""

import argparse
from pathlib import Path

from benchmarks.draws import compare_draws


def parser() -> argparse.ArgumentParser:
    """All benchmarks and their options."""
    root = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory, measured.")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="name")
    draws = verbs.add_parser("draws", help="loss at equal seconds with several times and noise levels of a token")
    draws.add_argument("--experiment", dest="names", nargs="+", required=True, help="experiments whose tokens exist")
    draws.add_argument("--draws", type=int, nargs="+", default=[1, 2, 4, 8])
    draws.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    draws.add_argument("--steps", type=int, default=300, help="one-draw steps whose time each gets (default 300)")
    draws.add_argument("--out", type=Path, default=Path("draws.json"), help="write to this file (default draws.json)")
    draws.set_defaults(run=compare_draws)
    return root


if __name__ == "__main__":
    arguments = vars(parser().parse_args())
    del arguments["verb"]
    arguments.pop("run")(**arguments)
