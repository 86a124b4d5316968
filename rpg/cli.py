"""The command line: one function per verb, as `rpg zoo`, `rpg train` and `rpg generate`.

Each function imports only its own stage, so `rpg --help` and every stage start fast.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rpg import __version__
from rpg.pipeline.commands import OPTIONS, clean, ledger
from rpg.utils.errors import UserError, one_line
from rpg.utils.threads import limit_threads

if TYPE_CHECKING:
    from rpg.config.experiment import Experiment
    from rpg.config.params import Params
    from rpg.paths import Paths

app = typer.Typer(
    help="Recurrent diffusion for parameter generation: learn from checkpoints, sample new ones.", **OPTIONS
)
ZOOS, STAGES, NETWORKS, RESULTS, PLANS = "Zoos of your own", "Stages", "Networks", "Results", "Plans and records"
app.add_typer(ledger, name="ledger", rich_help_panel=PLANS)
app.command(rich_help_panel=PLANS)(clean)

Name = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Name of an experiment in params.yaml.")]
Threads = Annotated[
    int,
    typer.Option(min=1, max=1024, metavar="N", help="CPU threads. Another number of threads may change the last bits."),
]
OneOf = Annotated[
    str | None, typer.Option("--experiment", metavar="NAME", help="Name of a trained experiment in params.yaml.")
]
Packed = Annotated[
    Path | None, typer.Option("--generator", metavar="FOLDER", help="Generator that `rpg pack` has written.")
]
FUNCTION = "MODULE:FUNCTION"
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[EXPERIMENT]...", help="Experiments and ablations. Default: `run` of params.yaml."),
]
Classes = Annotated[str | None, typer.Option(help="The task by its classes: 3,8 or cat,dog.")]
Code = Annotated[str | None, typer.Option(help="The task by its code, one 0 or 1 for each class: 0001000010.")]
Weights = Annotated[Path | None, typer.Option(help="Score this state dict, or the adapter in this folder.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rpg {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Recurrent diffusion for parameter generation: learn from checkpoints, sample new ones."""


def _open(name: str, threads: int | None = None, stage: str | None = None) -> "tuple[Params, Experiment, Paths]":
    """Load params.yaml, the experiment and its paths; with `threads`, set the thread count of all libraries.

    Raises UserError if the experiment lacks the optional `stage`.
    """
    if threads:
        limit_threads(threads)
    from rpg.config.loading import load_params
    from rpg.paths import paths_of
    from rpg.utils.rng import fix_arithmetic

    params = load_params()
    experiment = params.experiment(name)
    if stage and not experiment.has(stage):
        raise UserError(f"params.yaml: experiments.{name}: no {stage} block, so there is no such stage; add the block")
    if threads:
        fix_arithmetic(threads)
    return params, experiment, paths_of(params, name)


def _covering(run: list[str] | None) -> "Params":
    from rpg.config.loading import load_params

    params = load_params()
    return params.covering(run, "command line") if run else params


@app.command(rich_help_panel=ZOOS, context_settings={"allow_extra_args": True})
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new experiment.")],
    checkpoints: Annotated[list[str], typer.Option(metavar="PATTERN", help="Checkpoints, or folders of them.")],
    build: Annotated[str | None, typer.Option(metavar=FUNCTION, help="build() returns a network.")] = None,
    score: Annotated[str | None, typer.Option(metavar=FUNCTION, help="score(network, split) returns a score.")] = None,
    metric: Annotated[str | None, typer.Option(help="Name of the score. Default: the function's.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of the score, such as dB.")] = "percent",
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="A lower score is better.")] = False,
    state_from: Annotated[str | None, typer.Option(metavar="REGEX", help="Its text in a path names the run.")] = None,
    held_out: Annotated[list[str] | None, typer.Option(metavar="RUN", help="Run that RPG never sees.")] = None,
    facts: Annotated[Path | None, typer.Option(help="Table of numbers or classes of each checkpoint.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="KEY", help="Key or prefix of the network in a file.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Generate these tensors alone.")] = None,
) -> None:
    """Look at checkpoints of your own, and add an experiment for them to params.yaml."""
    given: dict[str, Any] = dict(locals())
    limit_threads(1)
    from rpg.init.command import shown
    from rpg.init.request import InitRequest

    given |= {"held_out": held_out or (), "only": only or (), "further": given.pop("context").args}
    shown(InitRequest(**given))


@app.command(rich_help_panel=STAGES)
def base(name: Name, threads: Threads = 1) -> None:
    """Train the base networks, which the runs of the zoo start from, of an experiment that has a base block."""
    params, experiment, paths = _open(name, threads, "base")
    from rpg.zoo.base import train_base

    train_base(experiment, paths.folder("base"), params.data_root)


@app.command(rich_help_panel=STAGES)
def zoo(
    name: Name,
    shard: Annotated[str | None, typer.Option(help="Train this shard alone: 0000-0007.")] = None,
    threads: Threads = 1,
) -> None:
    """Train the source networks of one shard, or of all shards."""
    params, experiment, paths = _open(name, threads)
    from rpg.zoo.shards import train_shard

    shards = experiment.shards()
    if shard and shard not in shards:
        raise UserError(f"--shard {shard}: not in this zoo; known: {', '.join(shards)}")
    for chosen in [shard] if shard else shards:
        train_shard(experiment, shards[chosen], paths.folder("zoo") / chosen, paths.folder("base"), params.data_root)


@app.command(rich_help_panel=STAGES)
def collect(name: Name, threads: Threads = 1) -> None:
    """List the checkpoints of all shards. Remove shards that params.yaml no longer names."""
    _, experiment, paths = _open(name)
    from rpg.zoo.collect import collect_zoo

    collect_zoo(experiment, paths.folder("zoo"), paths.folder("base"))


@app.command(rich_help_panel=STAGES)
def tokens(name: Name, threads: Threads = 1) -> None:
    """Tokenize the checkpoints of the zoo."""
    _, experiment, paths = _open(name, threads)
    from rpg.tokenizer.tokens import write_tokens

    write_tokens(paths.folder("zoo"), experiment.tokens, paths.folder("tokens"))


@app.command(rich_help_panel=STAGES)
def train(
    name: Name,
    threads: Threads = 1,
    processes: Annotated[
        int,
        typer.Option(
            min=0, max=1024, envvar="RPG_PROCESSES", help="Number of processes, each on its own GPU. 0 means 1."
        ),
    ] = 1,
) -> None:
    """Train RPG on the tokens. A stopped training resumes, with any number of processes."""
    params, experiment, paths = _open(name, threads if processes <= 1 else None)
    # More processes than checkpoints in a batch would have nothing to do. Other generators train in a single one.
    if (count := min(processes, experiment.train.batch)) > 1 and not experiment.model.generator:
        from rpg.training.distributed import launch

        launch(count, ["train", "--experiment", name, "--threads", str(threads), "--processes", "1"])
        return
    from rpg.training.distributed import end_process
    from rpg.training.train import train_rpg
    from rpg.utils.rng import fix_arithmetic

    fix_arithmetic(threads)
    places = paths.folder("tokens"), paths.folder("train"), paths.file("train.seconds")
    if experiment.model.generator:
        from rpg.peer_training.train import train_peer

        train_peer(experiment, *places, paths.folder("base"), params.data_root)
    else:
        train_rpg(experiment, *places)
    end_process()


@app.command("import", rich_help_panel=STAGES)
def import_weights(
    name: Name, weights: Annotated[Path, typer.Option(help="Published state dict (.pth, .bin, .safetensors).")]
) -> None:
    """Import the published RPG's weights instead of training."""
    _, experiment, paths = _open(name)
    from rpg.training.published import import_weights

    import_weights(experiment, weights, paths.folder("tokens"), paths.folder("train"), paths.file("train.seconds"))


@app.command(rich_help_panel=STAGES)
def tune(name: Name, threads: Threads = 1) -> None:
    """Fine-tune RPG on the task loss. A stopped run resumes. The experiment must have a tune block."""
    params, experiment, paths = _open(name, threads, "tune")
    from rpg.training.tune import tune_rpg

    tokens, base, rpg, folder = map(paths.folder, ("tokens", "base", "train", "tune"))
    tune_rpg(experiment, tokens, base, rpg, folder, paths.file("tune.seconds"), params.data_root)


@app.command(rich_help_panel=STAGES)
def hypernetwork(name: Name, threads: Threads = 1) -> None:
    """Train a hypernetwork on the task loss alone. The experiment must have a hypernetwork block."""
    params, experiment, paths = _open(name, threads, "hypernetwork")
    from rpg.training.hypernetwork import train_hypernetwork

    tokens, base, folder = map(paths.folder, ("tokens", "base", "hypernetwork"))
    train_hypernetwork(experiment, tokens, base, folder, paths.file("hypernetwork.seconds"), params.data_root)


@app.command(rich_help_panel=STAGES)
def sample(name: Name, threads: Threads = 1) -> None:
    """Sample new networks."""
    params, experiment, paths = _open(name, threads)
    from rpg.generator.sample import sample_all

    sample_all(experiment, paths, params.data_root)


@app.command(rich_help_panel=STAGES)
def score(
    name: OneOf = None,
    generator: Packed = None,
    threads: Threads = 1,
    weights: Weights = None,
    classes: Classes = None,
    code: Code = None,
) -> None:
    """Score originals and samples on the test split. With --weights, print the score of one file."""
    from rpg.generator.opening import check_one, open_task

    check_one(name, generator)
    if not weights and (generator or classes or code):
        raise UserError("--generator, --classes and --code are for one file: add --weights FILE")
    if weights:
        from rpg.evaluation.score_file import score_file
        from rpg.generator.requests import scored_task, split_classes

        task, data_root, tokens = open_task(name, generator, threads)
        print(score_file(task, weights, scored_task(task, split_classes(classes), code), data_root, tokens))
    elif name:
        params, experiment, paths = _open(name, threads)
        from rpg.evaluation.score import score_all

        score_all(experiment, paths, params.data_root)


@app.command(rich_help_panel=STAGES)
def novelty(name: Name, threads: Threads = 1) -> None:
    """Measure the distance of samples and baselines from the zoo."""
    params, experiment, paths = _open(name, threads)
    from rpg.evaluation.novelty import measure_novelty

    measure_novelty(experiment, paths, params.data_root)


@app.command(rich_help_panel=STAGES)
def prompts(name: Name, threads: Threads = 1) -> None:
    """Measure networks for prompts beside rivals that see the same prompts."""
    params, experiment, paths = _open(name, threads, "prompts")
    from rpg.evaluation.prompts import evaluate_prompts

    evaluate_prompts(experiment, paths, params.data_root)


@app.command(rich_help_panel=STAGES)
def wanted(name: Name, threads: Threads = 1) -> None:
    """Compare asked numbers with those of the generated networks. The experiment must have a wanted block."""
    params, experiment, paths = _open(name, threads, "wanted")
    from rpg.evaluation.wanted import measure_wanted

    measure_wanted(experiment, paths, params.data_root)


@app.command(rich_help_panel=NETWORKS)
def generate(
    *,
    name: OneOf = None,
    generator: Packed = None,
    out: Annotated[Path, typer.Option(help="Output: a .safetensors file, or a folder for an adapter.")],
    classes: Classes = None,
    code: Code = None,
    describe: Annotated[str | None, typer.Option(help='The task in words: "even numbers".')] = None,
    images: Annotated[Path | None, typer.Option(help="The task in pictures: a folder with folders no and yes.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Questions of the task without answers, one per line.")] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBERS", help="Value of a vector condition: validation_top1=98.5."),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(metavar="NAME", help="Experiment whose networks a joint generator makes.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=100_000, help="Number of networks. Several go to <out>-0, <out>-1, ...")
    ] = 1,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE[,STATE...]", help="Permutation state, or several to mix. Default: random."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise. Default: sample.seed of params.yaml.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Steps of the sampler. Default: sample.steps of params.yaml.")
    ] = None,
    threads: Threads = 1,
    runtime: Annotated[
        Literal["auto", "onnx", "torch"],
        typer.Option(help="What runs a packed generator. onnx is fast to start, torch gives the checkout's bytes."),
    ] = "auto",
) -> None:
    """Generate networks for a task, in a permutation state, or any."""
    from rpg.generator.opening import open_generator
    from rpg.generator.requests import generate_files, split_classes, split_states, split_vectors

    vectors, states = split_vectors(vector or []), split_states(state)
    generate_files(
        open_generator(name, generator, out, runtime, steps, threads, architecture),
        out,
        classes=split_classes(classes),
        code=code,
        sentence=describe,
        count=count,
        states=states,
        seed=seed,
        steps=steps,
        vectors=vectors,
        images=images,
        prompts=prompts,
    )


@app.command(rich_help_panel=NETWORKS)
def pack(
    name: Name,
    out: Annotated[Path, typer.Option(help="Output folder: new, empty, or packed before.")],
    graph: Annotated[
        bool, typer.Option(help="Add model.onnx, with which `rpg generate` needs no torch, if the model allows it.")
    ] = True,
) -> None:
    """Write a trained generator into a folder that needs no zoo and no params.yaml."""
    params, _, paths = _open(name, 1)
    from rpg.evaluation.results import summaries
    from rpg.generator.card import card
    from rpg.generator.packed import write_packed
    from rpg.generator.trained import TrainedRPG

    trained = TrainedRPG.of_params(params, name)
    why_not = write_packed(trained, out, card(trained, *summaries(paths)), graph)
    count = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(one_line(f"{out}: {count:,} bytes" + (f", without model.onnx: {why_not}" if why_not else "")))


@app.command(rich_help_panel=NETWORKS)
def export(
    *,
    name: OneOf = None,
    generator: Packed = None,
    out: Annotated[Path, typer.Option(help="Output: a .pth or .onnx file; a folder for mmengine and harness.")],
    form: Annotated[
        Literal["harness", "pth", "onnx", "mmengine"],
        typer.Option("--format", help="harness writes the questions of --experiment; the others write --weights."),
    ] = "harness",
    weights: Annotated[Path | None, typer.Option(help="Generated network (.safetensors).")] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Checkpoint whose form the output gets, a file or folder."),
    ] = None,
) -> None:
    """Write a generated network as other tools read it, or questions as tasks of lm-evaluation-harness.

    With --like, the output has the form of a checkpoint of the zoo, so the tool that wrote the zoo opens it.
    """
    if like:
        if form != "harness" or generator:
            raise UserError(f"--like {like}: the checkpoint gives the form; remove --format and --generator")
        if not weights:
            raise UserError(f"--like {like}: add --weights FILE")
        from rpg.generator.like import export_like

        # The zoo's choice among several networks in a checkpoint.
        choice = getattr(_open(name)[1].zoo, "weights", None) if name else None
        print(export_like(like, weights, out, choice))
        return
    if form == "harness":
        if generator or weights or not name:
            raise UserError("--format harness: give --experiment NAME and --out FOLDER alone")
        params, experiment, _ = _open(name)
        from rpg.tasks.commonsense.export import write_harness

        write_harness(name, experiment.task, params.data_root, out)
        return
    if not weights:
        raise UserError(f"--format {form}: add --weights FILE")
    from rpg.generator.export import export_network
    from rpg.generator.opening import check_one, open_task
    from rpg.tasks.loading import load_task

    if form != "pth" or name or generator:
        check_one(name, generator)
    task = load_task(*open_task(name, generator, 1)[:2]) if name or generator else None
    print(export_network(form, weights, out, task))


@app.command(rich_help_panel=NETWORKS)
def demo(
    name: OneOf = None,
    generator: Packed = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of this machine.")] = 8501,
    browser: Annotated[bool, typer.Option(help="Open a browser, or only serve the page.")] = True,
) -> None:
    """Serve a web page that generates networks and tries them."""
    from rpg.demo.serve import demo
    from rpg.generator.opening import check_one

    check_one(name, generator)
    demo(name, generator, port, browser)


@app.command(rich_help_panel=RESULTS)
def config(run: Names = None) -> None:
    """Write the resolved configuration of experiments.

    The file is results/<experiment>/config.yaml.
    """
    from rpg.config.resolved import write_configs

    params = _covering(run)
    write_configs(params, params.experiments_to_run())


@app.command(rich_help_panel=RESULTS)
def ablation(name: Annotated[str, typer.Option("--experiment", help="Name of an ablation in params.yaml.")]) -> None:
    """Compare the variants of an ablation."""
    from rpg.config.loading import load_params
    from rpg.reports.ablation import summarize
    from rpg.utils.files import RESULTS

    summarize(load_params(), name, RESULTS)


@app.command(rich_help_panel=RESULTS)
def joint(
    name: Annotated[str, typer.Option("--experiment", help="Name of a joint experiment.")], threads: Threads = 1
) -> None:
    """Train one RPG for the networks of several experiments, and compare it with their own."""
    limit_threads(threads)
    from rpg.config.loading import load_params
    from rpg.reports.joint import run_joint
    from rpg.utils.files import RESULTS
    from rpg.utils.rng import fix_arithmetic

    fix_arithmetic(threads)
    params = load_params()
    run_joint(params, name, RESULTS, params.data_root)


@app.command(rich_help_panel=RESULTS)
def ablations() -> None:
    """Write results/ablations.md, the tables of all ablations."""
    from rpg.config.loading import load_params
    from rpg.reports.ablations import write_tables
    from rpg.utils.files import RESULTS

    write_tables(load_params(), RESULTS)


@app.command(rich_help_panel=RESULTS)
def peers() -> None:
    """Write results/peers.md, RPG beside other generators on the same zoos."""
    from rpg.config.loading import load_params
    from rpg.reports.peers import write_peers
    from rpg.utils.files import RESULTS

    write_peers(load_params(), RESULTS)


@app.command(rich_help_panel=RESULTS)
def tables(run: Names = None) -> None:
    """Write results/tables.md and the data files of the tables."""
    from rpg.reports.tables import write_tables
    from rpg.utils.files import RESULTS

    write_tables(_covering(run), RESULTS)


@app.command(rich_help_panel=RESULTS)
def show() -> None:
    """Print the main table of results/tables.md."""
    from rpg.paths import TABLES
    from rpg.reports.main_table import main_table

    print(main_table(TABLES))


@app.command(rich_help_panel=RESULTS)
def report(run: Names = None) -> None:
    """Write results/report.html: all tables and figures."""
    from rpg.paths import TABLES
    from rpg.pipeline.ledger import snakemake
    from rpg.reports.html import write_report
    from rpg.utils.files import RESULTS

    write_report(_covering(run), RESULTS, lambda: snakemake("--rulegraph", "--nolock", "--", str(TABLES)))


@app.command(rich_help_panel=PLANS)
def plan(
    name: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="Name of an experiment in params.yaml.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Plan all experiments.")] = False,
    device: Annotated[
        str, typer.Option(help="h100, h200, b200, a100, l40s, rtx4090, or cpu for this machine.")
    ] = "h100",
    processes: Annotated[int, typer.Option(min=0, max=1024, help="Processes of `rpg train`.")] = 1,
) -> None:
    """Estimate memory, operations, disk and hours of RPG's training."""
    if whole == (name is not None):
        raise UserError("plan: give one of --experiment NAME and --all")
    from rpg.config.loading import load_params
    from rpg.pipeline.plan import describe

    params = load_params()
    print(describe(params, [name] if name else list(params.experiments), device, processes))


@app.command(rich_help_panel=PLANS)
def schema() -> None:
    """Print the JSON schema of params.yaml."""
    from rpg.config.loading import json_schema

    sys.stdout.write(json_schema())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `argv`, by default the command line; bad input prints one line and exits with code 2."""
    # Imports make hundreds of thousands of permanent objects. By default Python's garbage collector scans them after
    # every 700 new objects, which takes a fifth of a stage's start time.
    gc.set_threshold(100_000)
    # At exit Python would free them in half a second to two; the kernel frees the memory a moment later anyway.
    atexit.register(gc.freeze)
    command = typer.main.get_command(app)
    try:
        with command.make_context("rpg", list(sys.argv[1:] if argv is None else argv)) as context:
            command.invoke(context)
    except typer.Exit as stop:
        if stop.exit_code:
            sys.exit(stop.exit_code)
    except typer.TyperException as error:
        where: typer.Context | None = getattr(error, "ctx", None)
        message = error.format_message().rstrip(".")
        see = " See" if message.endswith("?") else "; see"
        sys.exit(_refuse(f"{message}{see} `{where.command_path if where else 'rpg'} --help`"))
    except UserError as error:
        sys.exit(_refuse(str(error)))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "rpg" or module in sys.modules:
            raise
        lacks = f"this command needs the package {module}, which the core of rpg lacks"
        sys.exit(_refuse(f"{lacks}; install rpg-weights[pipeline,vision,language,onnx]"))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of a pipe has exited (`rpg schema | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # For example a full disk, a read-only folder, or a folder in place of a file.
        sys.exit(_refuse(f"{error.filename or 'file'}: {error.strerror or error}"))


def _refuse(message: str) -> int:
    if "RANK" in os.environ:
        from rpg.training.distributed import report_first

        report_first()
    print(f"rpg: error: {one_line(message)}", file=sys.stderr)
    return 2
