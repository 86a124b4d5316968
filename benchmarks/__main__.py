"""`python -m benchmarks NAME`: prints a table and writes its numbers as JSON."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.dag import SHAPES as DAGS
from benchmarks.dag import measure_dag
from benchmarks.draws import compare_draws
from benchmarks.goals import measure_goals
from benchmarks.growth import measure_growth
from benchmarks.jobs import compare_jobs
from benchmarks.layers import measure_layers
from benchmarks.mamba import compare_mamba
from benchmarks.memory import compare_memory
from benchmarks.robustness import ARITHMETICS, measure_robustness
from benchmarks.sampling import compare_sampling
from benchmarks.shapes import SHAPES
from benchmarks.startup import measure_startup
from benchmarks.step import compare_steps
from benchmarks.tokens import measure_tokens
from benchmarks.training import compare_training
from benchmarks.zoos import compare_zoos


def parser() -> argparse.ArgumentParser:
    """All benchmarks and their options."""
    root = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory, measured.")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="name")

    def of_experiments(verb: argparse.ArgumentParser, *default: str) -> None:
        text = f"experiments whose artifacts exist (default {' '.join(default)})" if default else "experiments"
        verb.add_argument(
            "--experiment", dest="names", nargs="+", required=not default, default=list(default), help=text
        )

    def of_shape(verb: argparse.ArgumentParser, default: str) -> None:
        verb.add_argument("--shape", choices=list(SHAPES), default=default, help=f"of the paper's (default {default})")
        verb.add_argument("--fraction", type=int, default=16, help="divide its widths by this; 1 on a GPU (default 16)")

    def common(verb: argparse.ArgumentParser, name: str, rounds: int = 0, threads: int = 0) -> None:
        if rounds:
            verb.add_argument("--rounds", type=int, default=rounds, help=f"turns that are timed (default {rounds})")
        if threads:
            verb.add_argument("--threads", type=int, default=threads, help=f"CPU threads (default {threads})")
        verb.add_argument("--out", type=Path, default=Path(f"{name}.json"), help=f"write to this (default {name}.json)")

    goals = verbs.add_parser("goals", help="all that a laptop can measure, in a quarter of an hour, beside the goals")
    common(goals, "goals")
    goals.set_defaults(run=measure_goals)
    training = verbs.add_parser("training", help="seconds to the originals' accuracy, beside the published recipe")
    of_experiments(training, "digits-convnext")
    training.add_argument(
        "--times", type=float, default=20, help="what the published recipe gets, in ours (default 20)"
    )
    training.add_argument("--rates", type=float, nargs="+", default=[1e-4], help="its learning rates (default 1e-4)")
    common(training, "training", threads=2)
    training.set_defaults(run=compare_training)
    step = verbs.add_parser("step", help="one training step at a shape of the paper's, beside the published step")
    of_shape(step, "vit_tiny")
    common(step, "step", rounds=5, threads=2)
    step.set_defaults(run=compare_steps)
    sampling = verbs.add_parser("sampling", help="seconds to sample one network at equal accuracy, beside DDIM-100")
    of_experiments(sampling, "digits-resnet", "digits-vit", "digits-convnext")
    sampling.add_argument(
        "--shape", dest="shapes", nargs="+", choices=list(SHAPES), default=[], help="instead, of the paper's"
    )
    sampling.add_argument("--fraction", type=int, default=1, help="divide their widths by this (default 1)")
    common(sampling, "sampling", rounds=10, threads=2)
    sampling.set_defaults(run=compare_sampling)
    memory = verbs.add_parser("memory", help="memory of training at a shape of the paper's, beside the published one's")
    of_shape(memory, "vit_base")
    common(memory, "memory", threads=2)
    memory.set_defaults(run=compare_memory)
    zoos = verbs.add_parser("zoos", help="a zoo's networks at once, beside one after another")
    of_experiments(zoos, "digits-resnet", "digits-vit", "digits-convnext")
    common(zoos, "zoos", rounds=5, threads=1)
    zoos.set_defaults(run=compare_zoos)
    growth = verbs.add_parser("growth", help="how cost grows with tokens and seeds")
    growth.add_argument("--plot", type=Path, default=Path("docs/growth.svg"), help="draw to this (docs/growth.svg)")
    common(growth, "growth", rounds=5, threads=1)
    growth.set_defaults(run=measure_growth)
    startup = verbs.add_parser("startup", help="what it takes to start a command")
    common(startup, "startup", rounds=5)
    startup.set_defaults(run=measure_startup)
    layers = verbs.add_parser("layers", help="seconds of each layer in the last run, from logs/")
    layers.add_argument("--logs", type=Path, default=Path("logs"), help="of this run (default logs)")
    layers.add_argument("--before", type=Path, help="and of this, to compare with")
    common(layers, "layers")
    layers.set_defaults(run=measure_layers)
    draws = verbs.add_parser("draws", help="loss at equal seconds with other draws, or times, of a step's tokens")
    of_experiments(draws)
    draws.add_argument("--key", choices=["draws", "times"], default="draws", help="of train (default draws)")
    draws.add_argument("--values", type=int, nargs="+", default=[1, 2, 4, 8], help="of the key, 0 for null")
    draws.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    draws.add_argument("--steps", type=int, default=300, help="steps with the first, whose time each gets (300)")
    common(draws, "draws")
    draws.set_defaults(run=compare_draws)
    jobs = verbs.add_parser("jobs", help="processor seconds of jobs here and in an older checkout, at the same time")
    jobs.add_argument("--before", type=Path, required=True, help="the older checkout, with its artifacts")
    jobs.add_argument("words", nargs="+", metavar="job", help="as 'score --experiment digits-vit'")
    common(jobs, "jobs", rounds=1)
    jobs.set_defaults(run=compare_jobs)
    tokens = verbs.add_parser("tokens", help="speed and memory of tokenizing and detokenizing a network of timm's")
    tokens.add_argument("--network", dest="names", nargs="+", default=["convnext_large"])
    tokens.add_argument("--width", type=int, default=16384, help="D, weights per token (default 16384)")
    tokens.add_argument("--checkpoints", type=int, default=5, help="of the zoo whose store is written (default 5)")
    common(tokens, "tokens", rounds=5, threads=1)
    tokens.set_defaults(run=measure_tokens)
    mamba = verbs.add_parser("mamba", help="the plain scan of a Mamba2 block beside mamba-ssm's kernel, on a GPU")
    common(mamba, "mamba", rounds=20)
    mamba.set_defaults(run=compare_mamba)
    robustness = verbs.add_parser(
        "robustness", help="quality over training seeds and ways to round: hours for the whole default run"
    )
    robustness.add_argument(
        "--experiment", dest="names", nargs="+", default=[], help="experiments (default: those of `run`)"
    )
    robustness.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings (default 0 1 2)")
    robustness.add_argument(
        "--arithmetic", dest="arithmetics", nargs="+", choices=list(ARITHMETICS), default=["native", "avx2"]
    )
    robustness.add_argument("--changes", type=Path, help="YAML: experiment to {block.key: value}, over params.yaml")
    robustness.add_argument("--folder", type=Path, required=True, help="for the checkouts and their artifacts")
    common(robustness, "robustness")
    robustness.set_defaults(run=measure_robustness)
    dag = verbs.add_parser("dag", help="what planning many shards and experiments takes")
    dag.add_argument("--experiment", default="digits-resnet", help="which to copy (default digits-resnet)")
    dag.add_argument("--shapes", nargs="+", default=[f"{count}x{each}" for count, each in DAGS])
    dag.add_argument("--plot", type=Path, default=Path("docs/dag.svg"), help="draw to this file (default docs/dag.svg)")
    common(dag, "dag")
    dag.set_defaults(run=measure_dag)
    return root


if __name__ == "__main__":
    arguments = vars(parser().parse_args())
    # Memory as the rules' jobs have it, which is decided before a process starts; but where memory is measured, freed
    # memory goes back to the kernel, that it may be seen.
    if arguments.pop("verb") not in ("tokens", "memory") and "GLIBC_TUNABLES" not in os.environ:
        # Which has Snakemake imported, that no benchmark but dag needs.
        from rpg.pipeline.workflow import MALLOC

        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "GLIBC_TUNABLES": MALLOC})
    arguments.pop("run")(**arguments)
