"""The layers as commands: what `rpg base | zoo | collect | tokens | train | tune | ... | tables` do with params.yaml.

Each function imports its own layer only, so a layer starts fast and depends on no other layer's code.
"""

from pathlib import Path

from rpg.errors import UserError
from rpg.params import Experiment, Params, load_params
from rpg.paths import RESULTS, paths_of
from rpg.seeds import fix_arithmetic


def base(name: str, threads: int) -> None:
    """Train the network that the zoo's runs start from."""
    from rpg.base import train_base

    params, experiment = _has("base", name)
    fix_arithmetic(threads)
    train_base(experiment, paths_of(params, name).base, params.data_root)


def zoo(name: str, threads: int, shard: str | None) -> None:
    """Train `shard` of the zoo, or all of its shards."""
    from rpg.zoo import train_shard

    params = load_params()
    experiment, paths = params.experiment(name), paths_of(params, name)
    shards = experiment.shards()
    if shard and shard not in shards:
        raise UserError(f"--shard {shard}: not in this zoo; known: {', '.join(shards)}")
    fix_arithmetic(threads)
    for chosen in [shard] if shard else shards:
        train_shard(experiment, shards[chosen], paths.zoo / chosen, paths.base, params.data_root)


def collect(name: str) -> None:
    """List the checkpoints of all shards."""
    from rpg.collect import collect_zoo

    params = load_params()
    paths = paths_of(params, name)
    collect_zoo(params.experiment(name), paths.zoo, paths.base)


def tokens(name: str, threads: int) -> None:
    """Tokenise the zoo."""
    from rpg.tokens import write_tokens

    params = load_params()
    experiment, paths = params.experiment(name), paths_of(params, name)
    fix_arithmetic(threads)
    write_tokens(paths.zoo, experiment.tokens, paths.tokens)


def train(name: str, threads: int, processes: int) -> None:
    """Train RPG, in so many processes of this machine, or in as many as a batch has checkpoints."""
    params = load_params()
    experiment, paths = params.experiment(name), paths_of(params, name)
    if (few := min(processes, experiment.train.batch)) > 1:
        from rpg.distributed import launch

        launch(few, ["train", "--experiment", name, "--threads", str(threads)])
        return
    from rpg.train import train_rpg

    fix_arithmetic(threads)
    train_rpg(experiment, paths.tokens, paths.rpg, paths.seconds("train"))


def import_weights(name: str, weights: Path) -> None:
    """Take the published RPG's weights in place of training it."""
    from rpg.published import import_weights

    params = load_params()
    experiment, paths = params.experiment(name), paths_of(params, name)
    import_weights(experiment, weights, paths.tokens, paths.rpg, paths.seconds("train"))


def tune(name: str, threads: int) -> None:
    """Fine-tune RPG on the task loss."""
    from rpg.tune import tune_rpg

    params, experiment = _has("tune", name)
    paths = paths_of(params, name)
    fix_arithmetic(threads)
    tune_rpg(experiment, paths.tokens, paths.rpg, paths.tune, paths.seconds("tune"), params.data_root)


def hypernetwork(name: str, threads: int) -> None:
    """Train a hypernetwork, for comparison."""
    from rpg.hypernetwork import train_hypernetwork

    params, experiment = _has("hypernetwork", name)
    paths = paths_of(params, name)
    fix_arithmetic(threads)
    train_hypernetwork(experiment, paths.tokens, paths.hypernetwork, paths.seconds("hypernetwork"), params.data_root)


def _has(block: str, name: str) -> tuple[Params, Experiment]:
    params = load_params()
    experiment = params.experiment(name)
    if not getattr(experiment, block):
        raise UserError(f"params.yaml: experiments.{name}: has no {block} block, so there is no such layer")
    return params, experiment


def sample(name: str, threads: int) -> None:
    """Sample all networks of the experiment."""
    from rpg.sample import sample_layer

    params = load_params()
    fix_arithmetic(threads)
    sample_layer(params.experiment(name), paths_of(params, name), params.data_root)


def generate(
    name: str,
    threads: int,
    out: Path,
    classes: list[str] | None,
    code: str | None,
    sentence: str | None,
    count: int,
    states: tuple[int, ...] | None,
    seed: int | None,
    steps: int | None,
    vectors: list[tuple[str, list[float]]],
) -> None:
    """Generate networks for a task, in a permutation state, or any."""
    from rpg.generation import generate_files

    fix_arithmetic(threads)
    generate_files(
        name,
        out,
        classes=classes,
        code=code,
        sentence=sentence,
        count=count,
        states=states,
        seed=seed,
        steps=steps,
        vectors=dict(vectors),
    )


def export(name: str, out: Path) -> None:
    """Write an experiment's questions as tasks of lm-evaluation-harness."""
    from rpg.export import write_harness

    params = load_params()
    write_harness(name, params.experiment(name), params.data_root, out)


def demo(name: str, port: int, browser: bool) -> None:
    """Serve a page that generates networks and tries them out."""
    from rpg import demo as page

    page.demo(name, port, browser)


def score(name: str, threads: int, weights: Path | None, classes: list[str] | None, code: str | None) -> None:
    """Score originals and samples, or print the score of the file `weights`."""
    from rpg.score import score_file, score_layer

    params = load_params()
    experiment, paths = params.experiment(name), paths_of(params, name)
    fix_arithmetic(threads)
    if weights:
        from rpg.generation import task_code

        chosen = task_code(params, experiment, classes, code, None)
        print(score_file(experiment, weights, chosen, params.data_root))
    else:
        score_layer(experiment, paths, params.data_root)


def novelty(name: str, threads: int) -> None:
    """Tell whether the samples are new, beside what can be made of the zoo without RPG."""
    from rpg.novelty import novelty_layer

    params = load_params()
    fix_arithmetic(threads)
    novelty_layer(params.experiment(name), paths_of(params, name), params.data_root)


def ablation(name: str) -> None:
    """Put the variants of an ablation beside each other."""
    from rpg.ablation import summarise

    summarise(load_params(), name, RESULTS)


def ablations() -> None:
    """Write the tables of all ablations."""
    from rpg.ablations import write_tables

    write_tables(load_params(), RESULTS)


def report(run: list[str] | None) -> None:
    """Put tables and figures on one page."""
    from rpg.report import write_report

    write_report(_covering(run), RESULTS)


def tables(run: list[str] | None) -> None:
    """Write the tables of all experiments in `run`, or params.yaml's."""
    from rpg.tables import write_tables

    write_tables(_covering(run), RESULTS)


def _covering(run: list[str] | None) -> Params:
    params = load_params()
    return params.covering(run, "--run") if run else params
