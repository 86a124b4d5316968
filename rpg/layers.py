"""The layers as commands: what `rpg zoo | collect | tokens | train | sample | score | tables` do with params.yaml.

Each function imports its own layer only, so a layer starts fast and depends on no other layer's code.
"""

from pathlib import Path

from rpg.errors import UserError
from rpg.params import load_params
from rpg.paths import RESULTS, Paths
from rpg.seeds import fix_arithmetic


def zoo(name: str, threads: int, shard: str | None) -> None:
    """Train `shard` of the zoo, or all of its shards."""
    from rpg.zoo import train_shard

    params = load_params()
    experiment, shards = params.experiment(name), params.experiment(name).zoo.shards()
    if shard and shard not in shards:
        raise UserError(f"--shard {shard}: not in this zoo; known: {', '.join(shards)}")
    fix_arithmetic(threads)
    for chosen in [shard] if shard else shards:
        train_shard(experiment, shards[chosen], Paths(name).zoo / chosen, params.data_root)


def collect(name: str) -> None:
    """List the checkpoints of all shards."""
    from rpg.collect import collect_zoo

    collect_zoo(load_params().experiment(name), Paths(name).zoo)


def tokens(name: str, threads: int) -> None:
    """Tokenise the zoo."""
    from rpg.tokens import write_tokens

    experiment, paths = load_params().experiment(name), Paths(name)
    fix_arithmetic(threads)
    write_tokens(paths.zoo, experiment.tokens.width, paths.tokens)


def train(name: str, threads: int) -> None:
    """Train RPG."""
    from rpg.train import train_rpg

    experiment, paths = load_params().experiment(name), Paths(name)
    fix_arithmetic(threads)
    train_rpg(experiment, paths.tokens, paths.rpg, paths.seconds("train"))


def sample(name: str, threads: int, out: Path | None, state: int | None, seed: int | None) -> None:
    """Sample all networks of the experiment, or one into the file `out`."""
    from rpg.sample import sample_file, sample_layer

    chosen, paths = load_params().experiment(name).sample, Paths(name)
    fix_arithmetic(threads)
    if not out:
        sample_layer(chosen, paths.tokens, paths.rpg, paths.samples, paths.seconds("sample"))
        return
    seed = chosen.seed if seed is None else seed
    sample_file(chosen, paths.tokens, paths.rpg, out, state=state or 0, seed=seed)


def score(name: str, threads: int, weights: Path | None) -> None:
    """Score originals and samples, or print the score of the file `weights`."""
    from rpg.score import score_file, score_layer

    params, paths = load_params(), Paths(name)
    experiment = params.experiment(name)
    fix_arithmetic(threads)
    if weights:
        print(score_file(experiment, weights, params.data_root))
    else:
        score_layer(experiment, paths.zoo, paths.samples, paths.scores, paths.metrics, params.data_root)


def tables() -> None:
    """Write the tables of all experiments in `run:`."""
    from rpg.tables import write_tables

    write_tables(load_params(), RESULTS)
