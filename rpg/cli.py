"""The command line: one verb per layer, `rpg base | zoo | collect | ... | tables`; `rpg import`, which takes weights of
the published RPG; `rpg generate` and `rpg demo`, which use a trained one; `rpg export`, for another evaluation; `rpg
ledger`, which keeps DVC's records; and `rpg schema`."""

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rpg import __version__
from rpg.errors import UserError, one_line


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of rpg does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    root = _Parser(prog="rpg", description="Recurrent diffusion for parameter generation.")
    root.add_argument("--version", action="version", version=f"rpg {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="verb")

    def layer(name: str, help_text: str, computes: bool = True) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        verb.add_argument("--experiment", dest="name", required=True, help="an experiment of params.yaml")
        if computes:
            verb.add_argument(
                "--threads", type=int, default=1, help="CPU threads; another number may change the last bits"
            )
        return verb

    layer("base", "train the network that the zoo's runs start from, if the experiment has one")
    zoo = layer("zoo", "train the source networks of one shard")
    zoo.add_argument("--shard", help="the shard, e.g. 0000-0007; all of them if left out")
    layer(
        "collect", "list the checkpoints of all shards; remove shards that params.yaml no longer names", computes=False
    )
    layer("tokens", "tokenise the checkpoints of the zoo")
    train = layer("train", "train RPG on the tokens; goes on where a killed run stopped")
    train.add_argument(
        "--processes",
        type=int,
        default=1,
        help="train in so many, each on a GPU of its own (0 is 1); any number goes on",
    )
    imported = layer("import", "take the published RPG's weights in place of training it", computes=False)
    imported.add_argument("--weights", type=Path, required=True, help="the published state dict (.pth, .safetensors)")
    layer("tune", "fine-tune RPG on the task loss, if the experiment does")
    layer("hypernetwork", "train a hypernetwork on the task loss alone, if the experiment compares with one")
    layer("sample", "sample new networks")
    generate = layer("generate", "generate networks for a task, in a permutation state, or any")
    generate.add_argument(
        "--out", type=Path, required=True, help="write to this .safetensors file, or, an adapter, to this folder"
    )
    _add_task(generate).add_argument("--describe", dest="sentence", help='the task in words: "even numbers"')
    generate.add_argument(
        "--vector",
        dest="vectors",
        type=_vector,
        action="append",
        default=[],
        metavar="NAME=NUMBERS",
        help="a condition of the kind vector, as validation_top1=98.5",
    )
    generate.add_argument("--count", type=int, default=1, help="so many networks, to <out>-0, <out>-1, ... (default 1)")
    generate.add_argument(
        "--state",
        dest="states",
        type=_states,
        metavar="STATE[,STATE...]",
        help="permutation state, 0 to seeds - 1, or several, to be mixed (default: drawn)",
    )
    generate.add_argument("--seed", type=int, help="seed of the noise (default from params.yaml)")
    generate.add_argument("--steps", type=int, help="steps of the sampler (default from params.yaml)")
    export = layer("export", "write an experiment's questions as tasks of lm-evaluation-harness", computes=False)
    export.add_argument("--out", type=Path, required=True, help="write to this folder")
    demo = layer("demo", "open a local web page that generates networks and tries them out", computes=False)
    demo.add_argument("--port", type=int, default=8501, help="port of this machine (default 8501)")
    demo.add_argument("--no-browser", dest="browser", action="store_false", help="only serve the page")
    score = layer("score", "score originals and samples on the test split; with --weights one file")
    score.add_argument("--weights", type=Path, help="print the score of this state dict (.safetensors, .pth, .bin)")
    _add_task(score)
    layer("novelty", "tell whether the samples are new, beside what can be made of the zoo without RPG")
    layer("ablation", "put the variants of an ablation beside each other", computes=False)
    verbs.add_parser("ablations", help="write results/ablations.md, the tables of all ablations")
    for name, help_text in (
        ("tables", "write results/tables.md, metrics.json, scores.csv and seconds.json"),
        ("report", "write results/report.html, all tables and figures on one page"),
    ):
        summary = verbs.add_parser(name, help=help_text)
        summary.add_argument("--run", nargs="+", help="the experiments; those of `run` in params.yaml if left out")
    ledger = verbs.add_parser("ledger", help="DVC's records: write, status, pull, adopt, push")
    actions = ledger.add_subparsers(dest="action", required=True, metavar="action")
    write = actions.add_parser("write", help="write dvc.yaml, the stages of the rules, from params.yaml")
    write.add_argument("--check", action="store_true", help="only say whether it would change")
    actions.add_parser("status", help="one line per experiment: current, stale because of a key or file, or missing")
    actions.add_parser("pull", help="fetch the artifacts of dvc.lock, check every byte, and tell Snakemake")
    actions.add_parser("adopt", help="tell Snakemake that the artifacts are those of dvc.lock; `dvc repro` calls it")
    actions.add_parser("push", help="record what Snakemake has finished in dvc.lock, and upload it")
    planned = verbs.add_parser("plan", help="say what training RPG will take: memory, operations, disk, hours")
    which = planned.add_mutually_exclusive_group(required=True)
    which.add_argument("--experiment", dest="name", help="an experiment of params.yaml")
    which.add_argument("--all", dest="whole", action="store_true", help="all of them")
    planned.add_argument("--device", default="h100", help="h100, h200, b200, a100, l40s, rtx4090, or cpu, this one")
    planned.add_argument("--processes", type=int, default=1, help="of `rpg train`, each on a device of its own")
    verbs.add_parser("schema", help="print the JSON schema of params.yaml")
    return root


def _vector(text: str) -> tuple[str, list[float]]:
    name, _, numbers = text.partition("=")
    try:
        return name, [float(number) for number in numbers.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=NUMBERS, say validation_top1=98.5") from error


def _states(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(state) for state in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no state, say 3, nor several, say 2,5") from error


def _add_task(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("--classes", type=lambda text: text.split(","), help="the task: these classes, as 3,8 or cat,dog")
    verb.add_argument("--code", help="the task: one 0 or 1 per class, as 0001000010")
    return verb


def run(arguments: argparse.Namespace) -> None:
    """Do what the arguments say. Imports stand where they are needed, so that `rpg --help` needs none of them."""
    chosen = dict(vars(arguments))
    verb = chosen.pop("verb")
    if verb == "schema":
        from rpg.params import json_schema

        sys.stdout.write(json_schema())
    elif verb == "plan":
        from rpg.params import load_params
        from rpg.plan import tell

        params = load_params()
        names = list(params.experiments) if chosen["whole"] else [chosen["name"]]
        print(tell(params, names, chosen["device"], chosen["processes"]))
    elif verb == "ledger":
        import rpg.ledger as ledger

        getattr(ledger, chosen.pop("action"))(**chosen)
    else:
        from rpg import layers

        if not 1 <= chosen.get("threads", 1) <= 1024:
            raise UserError(f"--threads {chosen['threads']}: must be between 1 and 1024")
        if "threads" in chosen:
            # For numpy's products, which read it when they are imported: they took all cores, whatever was asked for.
            # Snakemake sets the same for its jobs.
            for library in ("OMP", "OPENBLAS", "MKL"):
                os.environ[f"{library}_NUM_THREADS"] = str(chosen["threads"])
        _check(verb, chosen)
        # `import` is no name that Python gives a function.
        getattr(layers, "import_weights" if verb == "import" else verb)(**chosen)


def _check(verb: str, chosen: dict[str, Any]) -> None:
    """UserError for values that no layer could use."""
    for name, low, high in (
        ("count", 1, 100_000),
        ("steps", 1, 1000),
        ("seed", 0, 2**63 - 1),
        ("port", 1, 65535),
        ("processes", 0, 1024),
    ):
        if chosen.get(name) is not None and not low <= chosen[name] <= high:
            raise UserError(f"--{name} {chosen[name]}: must be between {low} and {high}")
    if verb == "score" and not chosen["weights"] and (chosen["classes"] or chosen["code"]):
        raise UserError("--classes and --code name the task of one file: add --weights FILE")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: bad input is one line and exit code 2."""
    # Importing makes hundreds of thousands of objects that stay. Looking through them after every 700 new ones, as
    # Python does by itself, is a fifth of the time until a layer starts.
    gc.set_threshold(100_000)
    # At its end Python would look for garbage among all of them, and free one after the other: half a second to two,
    # for memory that is the kernel's a moment later.
    atexit.register(gc.freeze)
    try:
        run(parser().parse_args(argv))
    except UserError as error:
        sys.exit(_refuse(str(error)))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of a pipe has left (`rpg schema | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk, a read-only folder, a folder where a file belongs.
        sys.exit(_refuse(f"{error.filename or 'file'}: {error.strerror or error}"))


def _refuse(message: str) -> int:
    if "RANK" in os.environ:
        from rpg.distributed import let_first_tell

        let_first_tell()
    print(f"rpg: error: {one_line(message)}", file=sys.stderr)
    return 2
