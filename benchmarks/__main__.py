"""`python -m benchmarks NAME`: prints a table and writes its numbers as JSON."""

import argparse
from pathlib import Path

from benchmarks.dag import SHAPES, measure_dag
from benchmarks.draws import compare_draws
from benchmarks.mamba import compare_mamba
from benchmarks.tokens import measure_tokens


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
    tokens = verbs.add_parser("tokens", help="speed and memory of tokenising and detokenising a network of timm's")
    tokens.add_argument("--network", dest="names", nargs="+", default=["convnext_large"])
    tokens.add_argument("--width", type=int, default=16384, help="D, weights per token (default 16384)")
    tokens.add_argument("--checkpoints", type=int, default=5, help="of the zoo whose store is written (default 5)")
    tokens.add_argument("--threads", type=int, default=1)
    tokens.add_argument("--repeats", type=int, default=5)
    tokens.add_argument(
        "--out", type=Path, default=Path("tokens.json"), help="write to this file (default tokens.json)"
    )
    tokens.set_defaults(run=measure_tokens)
    mamba = verbs.add_parser("mamba", help="the plain scan of a Mamba2 block beside mamba-ssm's kernel, on a GPU")
    mamba.add_argument("--repeats", type=int, default=20)
    mamba.add_argument("--out", type=Path, default=Path("mamba.json"), help="write to this file (default mamba.json)")
    mamba.set_defaults(run=compare_mamba)
    dag = verbs.add_parser("dag", help="what planning many shards and experiments takes")
    dag.add_argument("--experiment", default="digits-resnet", help="which to copy (default digits-resnet)")
    dag.add_argument("--shapes", nargs="+", default=[f"{count}x{each}" for count, each in SHAPES])
    dag.add_argument("--out", type=Path, default=Path("dag.json"), help="write to this file (default dag.json)")
    dag.add_argument("--plot", type=Path, default=Path("docs/dag.svg"), help="draw to this file (default docs/dag.svg)")
    dag.set_defaults(run=measure_dag)
    return root


if __name__ == "__main__":
    arguments = vars(parser().parse_args())
    del arguments["verb"]
    arguments.pop("run")(**arguments)
