"""The command line: one verb per layer, `rpg zoo | tokens | train | sample | score | tables`, and `rpg schema`."""

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

    def layer(name: str, help_text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        verb.add_argument("--experiment", required=True, help="an experiment of params.yaml")
        verb.add_argument("--threads", type=int, default=1, help="CPU threads; another number may change the last bits")
        return verb

    zoo = layer("zoo", "train the source networks of one shard")
    zoo.add_argument("--shard", help="the shard, e.g. 0000-0003; all of them if left out")
    layer("tokens", "collect and tokenise the checkpoints of the zoo")
    layer("train", "train RPG on the tokens; goes on where a killed run stopped")
    sample = layer("sample", "sample new networks; with --out one network to a file")
    sample.add_argument("--out", type=Path, help="write one network to this .safetensors file")
    sample.add_argument("--state", type=int, help="its permutation state, 0 to seeds - 1 (default 0); needs --out")
    sample.add_argument("--seed", type=int, help="the seed of its noise (default from params.yaml); needs --out")
    score = layer("score", "score originals and samples on the test split; with --weights one file")
    score.add_argument("--weights", type=Path, help="print the score of this state dict (.safetensors, .pth, .bin)")
    verbs.add_parser("tables", help="write results/tables.md, metrics.json and seconds.json")
    verbs.add_parser("schema", help="print the JSON schema of params.yaml")
    return root


def run(arguments: argparse.Namespace) -> None:
    """Do what the arguments say. Imports stand where they are needed, so that `rpg --help` needs none of them."""
    if arguments.verb == "schema":
        from rpg.params import json_schema

        sys.stdout.write(json_schema())
        return

    from rpg.params import load_params
    from rpg.paths import RESULTS, Paths

    params = load_params()
    if arguments.verb == "tables":
        from rpg.tables import write_tables

        write_tables(params, RESULTS)
        return

    experiment, paths = params.experiment(arguments.experiment), Paths(arguments.experiment)
    if not 1 <= arguments.threads <= 1024:
        raise UserError(f"--threads {arguments.threads}: must be between 1 and 1024")
    if arguments.verb == "sample" and not arguments.out and (arguments.state, arguments.seed) != (None, None):
        raise UserError("--state and --seed choose one network: add --out FILE")
    if arguments.verb == "sample" and arguments.out and arguments.out.suffix != ".safetensors":
        raise UserError(f"--out {arguments.out}: must end in .safetensors")

    from rpg.seeds import fix_arithmetic

    fix_arithmetic(arguments.threads)
    shards = experiment.zoo.shards()
    if arguments.verb == "zoo":
        from rpg.zoo import train_shard

        if arguments.shard and arguments.shard not in shards:
            raise UserError(f"--shard {arguments.shard}: not in this zoo; known: {', '.join(shards)}")
        for shard in [arguments.shard] if arguments.shard else shards:
            train_shard(experiment, shards[shard], paths.zoo / shard, params.data_root)
    elif arguments.verb == "tokens":
        from rpg.tokens import write_tokens

        write_tokens(paths.zoo, shards, experiment.tokens.width, paths.tokens)
    elif arguments.verb == "train":
        from rpg.train import train_rpg

        train_rpg(experiment, paths.tokens, paths.rpg, paths.seconds("train"))
    elif arguments.verb == "sample":
        from rpg.sample import sample_file, sample_layer

        if arguments.out:
            seed = experiment.sample.seed if arguments.seed is None else arguments.seed
            state = arguments.state or 0
            sample_file(experiment.sample, paths.tokens, paths.rpg, arguments.out, state=state, seed=seed)
        else:
            sample_layer(experiment.sample, paths.tokens, paths.rpg, paths.samples, paths.seconds("sample"))
    elif arguments.verb == "score":
        from rpg.score import score_file, score_layer

        if arguments.weights:
            print(score_file(experiment, arguments.weights, params.data_root))
        else:
            score_layer(experiment, paths.zoo, paths.samples, paths.scores, params.data_root)


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
