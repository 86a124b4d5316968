"""The command line: one verb per layer, `rpg zoo | collect | tokens | train | sample | score | tables`, then
`rpg ledger`, which keeps DVC's records, and `rpg schema`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rpg import __version__
from rpg.errors import UserError


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

    zoo = layer("zoo", "train the source networks of one shard")
    zoo.add_argument("--shard", help="the shard, e.g. 0000-0003; all of them if left out")
    layer(
        "collect", "list the checkpoints of all shards; remove shards that params.yaml no longer names", computes=False
    )
    layer("tokens", "tokenise the checkpoints of the zoo")
    layer("train", "train RPG on the tokens; goes on where a killed run stopped")
    sample = layer("sample", "sample new networks; with --out one network to a file")
    sample.add_argument("--out", type=Path, help="write one network to this .safetensors file")
    sample.add_argument("--state", type=int, help="its permutation state, 0 to seeds - 1 (default 0); needs --out")
    sample.add_argument("--seed", type=int, help="the seed of its noise (default from params.yaml); needs --out")
    score = layer("score", "score originals and samples on the test split; with --weights one file")
    score.add_argument("--weights", type=Path, help="print the score of this state dict (.safetensors, .pth, .bin)")
    verbs.add_parser("tables", help="write results/tables.md, metrics.json, scores.csv and seconds.json")
    ledger = verbs.add_parser("ledger", help="DVC's records: write, status, pull, adopt, push")
    actions = ledger.add_subparsers(dest="action", required=True, metavar="action")
    write = actions.add_parser("write", help="write dvc.yaml, the stages of the rules, from params.yaml")
    write.add_argument("--check", action="store_true", help="only say whether it would change")
    actions.add_parser("status", help="one line per experiment: current, stale because of a key or file, or missing")
    actions.add_parser("pull", help="fetch the artifacts of dvc.lock, check every byte, and tell Snakemake")
    actions.add_parser("adopt", help="tell Snakemake that the artifacts are those of dvc.lock; `dvc repro` calls it")
    actions.add_parser("push", help="record what Snakemake has finished in dvc.lock, and upload it")
    verbs.add_parser("schema", help="print the JSON schema of params.yaml")
    return root


def run(arguments: argparse.Namespace) -> None:
    """Do what the arguments say. Imports stand where they are needed, so that `rpg --help` needs none of them."""
    chosen = dict(vars(arguments))
    verb = chosen.pop("verb")
    if verb == "schema":
        from rpg.params import json_schema

        sys.stdout.write(json_schema())
    elif verb == "ledger":
        import rpg.ledger as ledger

        getattr(ledger, chosen.pop("action"))(**chosen)
    else:
        from rpg import layers

        if not 1 <= chosen.get("threads", 1) <= 1024:
            raise UserError(f"--threads {chosen['threads']}: must be between 1 and 1024")
        if verb == "sample" and not chosen["out"] and (chosen["state"], chosen["seed"]) != (None, None):
            raise UserError("--state and --seed choose one network: add --out FILE")
        if verb == "sample" and chosen["out"] and chosen["out"].suffix != ".safetensors":
            raise UserError(f"--out {chosen['out']}: must end in .safetensors")
        getattr(layers, verb)(**chosen)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: bad input is one line and exit code 2."""
    try:
        run(parser().parse_args(argv))
    except UserError as error:
        sys.exit(_refuse(str(error)))
    except BrokenPipeError:
        # The reader of a pipe has left (`rpg schema | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk, a read-only folder, a folder where a file belongs.
        sys.exit(_refuse(f"{error.filename or 'file'}: {error.strerror or error}"))


def _refuse(message: str) -> int:
    print(f"rpg: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
