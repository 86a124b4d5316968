"""Run a benchmark: `python -m benchmarks NAME` prints a table and writes the numbers as JSON."""

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
from benchmarks.mamba import compare_mamba
from benchmarks.memory import compare_memory
from benchmarks.operations import measure_operations
from benchmarks.own_zoos import measure_own_zoos
from benchmarks.own_zoos.cases import CASES
from benchmarks.robustness import ARITHMETICS, measure_robustness
from benchmarks.sampling import compare_sampling
from benchmarks.shapes import SHAPES
from benchmarks.stages import measure_stages
from benchmarks.startup import measure_startup
from benchmarks.step import compare_steps
from benchmarks.tokens import measure_tokens
from benchmarks.training import compare_training
from benchmarks.zoos import compare_zoos


def parser() -> argparse.ArgumentParser:
    """Return the parser of all benchmarks and their options."""
    root = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed and memory.")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="name")

    def add_experiments(verb: argparse.ArgumentParser, *default: str) -> None:
        text = f"experiments whose artifacts exist (default {' '.join(default)})" if default else "experiments"
        verb.add_argument(
            "--experiment", dest="names", nargs="+", required=not default, default=list(default), help=text
        )

    def add_shape(verb: argparse.ArgumentParser, default: str) -> None:
        verb.add_argument(
            "--shape", choices=list(SHAPES), default=default, help=f"shape from the paper (default {default})"
        )
        verb.add_argument(
            "--fraction",
            type=int,
            default=16,
            help="divide the shape's widths by this number; use 1 on a GPU (default 16)",
        )

    def add_common(verb: argparse.ArgumentParser, name: str, rounds: int = 0, threads: int = 0) -> None:
        if rounds:
            verb.add_argument("--rounds", type=int, default=rounds, help=f"timed rounds (default {rounds})")
        if threads:
            verb.add_argument("--threads", type=int, default=threads, help=f"CPU threads (default {threads})")
        verb.add_argument("--out", type=Path, default=Path(f"{name}.json"), help=f"output file (default {name}.json)")

    goals = verbs.add_parser("goals", help="compare all laptop measurements with the goals, in 15 minutes")
    add_common(goals, "goals")
    goals.set_defaults(run=measure_goals)
    training = verbs.add_parser(
        "training", help="seconds to the originals' accuracy, compared with the published recipe"
    )
    add_experiments(training, "digits-convnext")
    training.add_argument(
        "--times", type=float, default=20, help="time of the published recipe as a multiple of ours (default 20)"
    )
    training.add_argument(
        "--rates", type=float, nargs="+", default=[1e-4], help="learning rates of the published recipe (default 1e-4)"
    )
    add_common(training, "training", threads=2)
    training.set_defaults(run=compare_training)
    step = verbs.add_parser(
        "step", help="one training step at a shape from the paper, compared with the published step"
    )
    add_shape(step, "vit_tiny")
    add_common(step, "step", rounds=5, threads=2)
    step.set_defaults(run=compare_steps)
    sampling = verbs.add_parser(
        "sampling", help="seconds to sample one network at equal accuracy, compared with DDIM-100"
    )
    add_experiments(sampling, "digits-resnet", "digits-vit", "digits-convnext")
    sampling.add_argument(
        "--shape",
        dest="shapes",
        nargs="+",
        choices=list(SHAPES),
        default=[],
        help="shapes from the paper, instead of experiments",
    )
    sampling.add_argument(
        "--fraction", type=int, default=1, help="divide the shapes' widths by this number (default 1)"
    )
    add_common(sampling, "sampling", rounds=10, threads=2)
    sampling.set_defaults(run=compare_sampling)
    memory = verbs.add_parser(
        "memory", help="memory of training at a shape from the paper, compared with the published training"
    )
    add_shape(memory, "vit_base")
    add_common(memory, "memory", threads=2)
    memory.set_defaults(run=compare_memory)
    zoos = verbs.add_parser("zoos", help="training a zoo's networks at once, compared with one after another")
    add_experiments(zoos, "digits-resnet", "digits-vit", "digits-convnext")
    add_common(zoos, "zoos", rounds=5, threads=1)
    zoos.set_defaults(run=compare_zoos)
    growth = verbs.add_parser("growth", help="growth of the cost with tokens and seeds")
    growth.add_argument(
        "--plot", type=Path, default=Path("docs/growth.svg"), help="figure file (default docs/growth.svg)"
    )
    add_common(growth, "growth", rounds=5, threads=1)
    growth.set_defaults(run=measure_growth)
    startup = verbs.add_parser("startup", help="seconds to start a command")
    add_common(startup, "startup", rounds=5)
    startup.set_defaults(run=measure_startup)
    stages = verbs.add_parser("stages", help="seconds of each stage in the last run, from logs/")
    stages.add_argument("--logs", type=Path, default=Path("logs"), help="logs of the run (default logs)")
    stages.add_argument("--before", type=Path, help="logs of an older run to compare with")
    add_common(stages, "stages")
    stages.set_defaults(run=measure_stages)
    draws = verbs.add_parser("draws", help="loss at equal seconds for several values of train.draws or train.times")
    add_experiments(draws)
    draws.add_argument(
        "--key", choices=["draws", "times"], default="draws", help="key of the train block (default draws)"
    )
    draws.add_argument("--values", type=int, nargs="+", default=[1, 2, 4, 8], help="values of the key; 0 means null")
    draws.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    draws.add_argument(
        "--steps", type=int, default=300, help="steps with the first value; all values get the same time (default 300)"
    )
    add_common(draws, "draws")
    draws.set_defaults(run=compare_draws)
    jobs = verbs.add_parser("jobs", help="CPU seconds of jobs here and in an older checkout, run at the same time")
    jobs.add_argument("--before", type=Path, required=True, help="older checkout with its artifacts")
    jobs.add_argument("words", nargs="+", metavar="job", help="arguments of rpg, as 'score --experiment digits-vit'")
    add_common(jobs, "jobs", rounds=1)
    jobs.set_defaults(run=compare_jobs)
    tokens = verbs.add_parser("tokens", help="speed and memory of tokenizing and detokenizing a network of timm")
    tokens.add_argument("--network", dest="names", nargs="+", default=["convnext_large"])
    tokens.add_argument("--width", type=int, default=16384, help="D, weights per token (default 16384)")
    tokens.add_argument("--checkpoints", type=int, default=5, help="checkpoints of the written token store (default 5)")
    add_common(tokens, "tokens", rounds=5, threads=1)
    tokens.set_defaults(run=measure_tokens)
    mamba = verbs.add_parser("mamba", help="plain scan of a Mamba2 block, compared with mamba-ssm's kernel, on a GPU")
    add_common(mamba, "mamba", rounds=20)
    mamba.set_defaults(run=compare_mamba)
    robustness = verbs.add_parser(
        "robustness", help="quality over training seeds and arithmetics; takes hours for the default run"
    )
    robustness.add_argument(
        "--experiment", dest="names", nargs="+", default=[], help="experiments (default: those of `run`)"
    )
    robustness.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default 0 1 2)")
    robustness.add_argument(
        "--bases",
        type=int,
        nargs="*",
        default=[1],
        help="other sets of base networks (default 1; set 0 is in the seeds)",
    )
    robustness.add_argument(
        "--arithmetic", dest="arithmetics", nargs="+", choices=list(ARITHMETICS), default=["native", "avx2"]
    )
    robustness.add_argument(
        "--changes", type=Path, help="YAML file of {experiment: {block.key: value}} that overrides params.yaml"
    )
    robustness.add_argument("--folder", type=Path, required=True, help="folder for the checkouts and their artifacts")
    add_common(robustness, "robustness")
    robustness.set_defaults(run=measure_robustness)
    operations = verbs.add_parser(
        "operations", help="operations with the same bytes on this processor and on others, in qemu's emulation"
    )
    operations.add_argument(
        "--emulate",
        dest="processors",
        nargs="*",
        default=["Haswell", "EPYC-Rome"],
        help="qemu's names of processors (default Haswell EPYC-Rome)",
    )
    add_common(operations, "operations", rounds=5)
    operations.set_defaults(run=measure_operations)
    own = verbs.add_parser("own-zoos", help="zoos as peft, transformers, timm and others write them, case by case")
    own.add_argument("--case", dest="names", nargs="+", choices=list(CASES), default=[], metavar="NAME", help="cases")
    add_common(own, "own-zoos")
    own.set_defaults(run=measure_own_zoos)
    dag = verbs.add_parser("dag", help="time and memory to plan many shards and experiments")
    dag.add_argument("--experiment", default="digits-resnet", help="experiment to copy (default digits-resnet)")
    dag.add_argument("--shapes", nargs="+", default=[f"{count}x{each}" for count, each in DAGS])
    dag.add_argument("--plot", type=Path, default=Path("docs/dag.svg"), help="figure file (default docs/dag.svg)")
    add_common(dag, "dag")
    dag.set_defaults(run=measure_dag)
    return root


if __name__ == "__main__":
    arguments = vars(parser().parse_args())
    # Use the allocator settings of the rules' jobs, which take effect only at the start of a process. Benchmarks of
    # memory keep the default settings, because freed memory must return to the kernel to be visible.
    if arguments.pop("verb") not in ("tokens", "memory") and "GLIBC_TUNABLES" not in os.environ:
        # Imported here, because this module imports Snakemake, which most benchmarks do not need.
        from rpg.pipeline.workflow import MALLOC

        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "GLIBC_TUNABLES": MALLOC})
    arguments.pop("run")(**arguments)
