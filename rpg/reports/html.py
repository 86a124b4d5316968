"""Write all tables and figures to one page: `rpg report`. The page, results/report.html, needs no other file."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import networkx as nx
import numpy as np
import pandas as pd
import pydot
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from rpg.config.params import Params
from rpg.evaluation.results import WantedResult
from rpg.evaluation.score import read_samples
from rpg.generator.manifest import Sampled
from rpg.paths import Paths
from rpg.reports import figures
from rpg.reports.artifacts import ExperimentResults
from rpg.reports.formatting import label_set
from rpg.reports.peers import DATA, PAGE
from rpg.reports.tables import measured_methods
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, read_sealed, read_tensors, verified_file, write_text
from rpg.utils.metric import PERCENT
from rpg.zoo.manifest import read_zoo

TEMPLATE = Path("workflow/report/report.html.j2")
LOGS = Path("logs")
# The maximum number of points in a projection; a large zoo would not fit in memory.
POINTS = 300
# The maximum width and height of a heat map in pixels.
PIXELS = 64
# The number of images in a strip.
SCENES = 6


@dataclass
class Plot:
    """A figure of the page: a data URL and a caption."""

    image: str
    caption: str


@dataclass
class Section:
    """A section of the page; `tables` are HTML."""

    title: str
    intro: str = ""
    plots: list[Plot] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def write_report(params: Params, results: Path, rule_graph: Callable[[], str]) -> None:
    """Write report.html from the tables, scores, models and samples of all experiments in `run:`.

    `rule_graph` returns the graph of Snakemake's rules as DOT text. Raises UserError if a file is missing.
    """
    metrics = read_json(results / "metrics.json", "rpg tables", ExperimentResults).experiments
    sections = [
        Section("Tables", tables=[_html(results / "tables.md", "rpg tables")]),
        *_ablations(results),
        *_peers(results),
        Section(
            "Accuracy and distance",
            "Points to the upper right are better: more accurate, and farther from every checkpoint of the zoo. Each "
            "method has one point; bars are 95 % intervals of the mean. The dashed line is the Pareto front "
            "of all methods except RPG, whatever their tasks: a star beyond the line is out of reach for the others. "
            "Distances under 0.01 are drawn at 0.01.",
            [
                _plot(
                    figures.accuracy_and_distance(
                        [(label, measures) for label, _, measures in measured_methods(entry.novelty)],
                        name,
                        "accuracy" if entry.metric_kind == PERCENT else entry.metric,
                        entry.metric_kind,
                    ),
                    name,
                )
                for name, entry in metrics.items()
            ],
        ),
        *_pictures(params, results),
        *_wanted(params, results),
        Section(
            "Samples beside their nearest original",
            "The largest tensor of the first sample and of the nearest checkpoint, in one color scale. If the "
            "difference has no pattern and is much paler than the weights, the sample is a replica.",
            [_plot(_heat_map(name, results), name) for name in metrics],
        ),
        Section(
            "Zoo and samples in one plane",
            "The plane of the two directions in which the zoo's normalized checkpoints differ most, with the samples. "
            "Saves of one training run overlap. A sample near a checkpoint in this plane may be far away in other "
            "directions; the distances in the tables count all directions.",
            [_plot(_projection(name, results), name) for name in metrics],
        ),
        Section(
            "Training loss",
            "The loss of RPG on the tokens of the zoo, and of the tuning and the hypernetwork.",
            [_plot(figures.losses(_losses(params, results)), "loss of every training")],
        ),
        Section(
            "Rules",
            "The rules that Snakemake runs; an arrow points from a rule to a rule that reads its output.",
            [_plot(figures.rule_graph(_rules(rule_graph())), "the graph of the rules")],
        ),
        Section(
            "Run times",
            "Seconds and megabytes of each job, measured by Snakemake, the longest job first. The numbers vary between "
            "runs.",
            tables=[_html(results / "seconds.md", "rpg tables"), _jobs(params)],
        ),
    ]
    try:
        text = TEMPLATE.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{TEMPLATE}: cannot be read; run rpg in the folder that holds params.yaml") from error
    page = jinja2.Template(text, autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(results / "report.html", page.render(sections=sections))


def _html(path: Path, command: str) -> str:
    """Convert a Markdown file to HTML, without the title and with headings one level lower than the page's sections."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: missing; run `{command}` first") from error
    return MarkdownIt("commonmark").enable("table").render(text.partition("\n")[2].replace("\n#", "\n##"))


def _plot(figure: Figure, caption: str) -> Plot:
    return Plot(figures.as_image(figure), caption)


def _ablations(results: Path) -> Iterator[Section]:
    if (results / "ablations.md").is_file():
        yield Section("Ablations", tables=[_html(results / "ablations.md", "rpg ablations")])


def _peers(results: Path) -> Iterator[Section]:
    """Yield the section of other generators, if they have been compared."""
    if (results / PAGE).is_file():
        measured = read_json(results / DATA, "rpg peers")
        yield Section(
            "Other generators",
            "All methods of one zoo. Points to the upper right are better: more accurate, and farther from every "
            "checkpoint. Distances under 0.01 are drawn at 0.01.",
            [_plot(figures.generators(of, name), name) for name, of in measured.items()],
            [_html(results / PAGE, "rpg peers")],
        )


def _wanted(params: Params, results: Path) -> Iterator[Section]:
    """Yield the section of asked and got numbers, if an experiment has measured them."""
    plots = []
    for name, experiment in params.experiments.items():
        path = Paths(name, results).file("wanted.summary")
        if experiment.wanted and path.is_file():
            found = read_sealed(path, f"rpg wanted --experiment {name}", WantedResult).summaries
            for vector in dict.fromkeys(one.vector for one in found):
                caption = f"{name}, {vector}"
                plots.append(_plot(figures.asked_and_got(found, vector, caption), caption))
    if plots:
        yield Section("Asked and got", "The scores of networks over the number that was asked for.", plots)


def _pictures(params: Params, results: Path) -> Iterator[Section]:
    """Yield the section of segmentation and detection, if there are such experiments."""
    plots = []
    for name in params.experiments_to_run():
        paths, block = Paths(name, results), params.experiment(name).task
        if block.has_pictures:
            task = load_task(block, params.data_root)
            checkpoints, _ = read_zoo(paths.folder("zoo"))
            files = {
                "original": paths.folder("zoo") / checkpoints[-1].file,
                "sample": paths.folder("sample") / _samples(paths)[0].file,
            }
            pictures = {kind: task.pictures(read_tensors(path), SCENES) for kind, path in files.items()}
            shown = ", ".join(f"{kind} {path.name}" for kind, path in files.items())
            plots.append(_plot(figures.strip(pictures), f"{name}: {shown}"))
    if plots:
        yield Section(
            "What networks see",
            "Validation images. Below each image: the truth, the regions that a trained network found, and those of a "
            "sample. Each class has a color and a name.",
            plots,
        )


def _samples(paths: Paths) -> list[Sampled]:
    """What the manifest says of each of the experiment's samples."""
    checkpoints, _ = read_zoo(paths.folder("zoo"))
    return read_samples(paths.folder("sample"), len({checkpoint.seed for checkpoint in checkpoints}))


def _heat_map(name: str, results: Path) -> Figure:
    """Plot the largest tensor of an experiment's first sample and of the nearest original."""
    paths = Paths(name, results)
    store = TokenStore(paths.folder("tokens"))
    rows_file = verified_file(
        paths.file("novelty.rows"), paths.file("novelty.summary"), f"rpg novelty --experiment {name}"
    )
    rows = pd.read_csv(rows_file, dtype={"nearest": str, "file": str})
    first_sample = rows[rows["networks"] == "RPG"].iloc[0]
    names = [tensor.name for tensor in store.layout.tensors]
    sample, original = (
        read_checkpoint(path, names)
        for path in (paths.folder("sample") / first_sample["file"], paths.folder("zoo") / first_sample["nearest"])
    )
    largest = max(store.layout.tokenized, key=lambda tensor: math.prod(tensor.shape))
    sample_rows, original_rows = (
        state_dict[largest.name].flatten(1)[:PIXELS, :PIXELS].numpy()
        if len(largest.shape) > 1
        else state_dict[largest.name].reshape(1, -1).numpy()
        for state_dict in (sample, original)
    )
    title = f"{name}: {largest.name}, {first_sample['file']} and {first_sample['nearest']}"
    return figures.heat_maps(sample_rows, original_rows, title)


def _projection(name: str, results: Path) -> Figure:
    """Plot the checkpoints that RPG learned from, and the samples, in the plane of the checkpoints."""
    paths = Paths(name, results)
    store = TokenStore(paths.folder("tokens"))
    weights_LD = ~store.layout.padding()
    names = [tensor.name for tensor in store.layout.tensors]
    draw = random.Random(0)
    picks = sorted(draw.sample(range(len(store)), min(POINTS, len(store))))
    originals = np.stack([store[index][weights_LD].numpy() for index in picks])
    by_label: dict[str, list[Sampled]] = {}
    for sample in _samples(paths):
        if sample.model == "rpg":
            by_label.setdefault(label_set("RPG", sample.set), []).append(sample)

    def point(sample: Sampled) -> np.ndarray:
        state_dict = read_checkpoint(paths.folder("sample") / sample.file, names)
        return store.tokenize(state_dict, sample.state)[weights_LD].numpy()

    points = {
        label: np.stack([point(sample) for sample in draw.sample(samples, min(POINTS // len(by_label), len(samples)))])
        for label, samples in by_label.items()
    }
    return figures.projection(originals, points, name)


def _losses(params: Params, results: Path) -> dict[str, pd.DataFrame]:
    logs = {}
    for name in params.experiments_to_run():
        paths, trained = Paths(name, results), params.experiment(name).timed()
        for stage, folder in (
            ("train", paths.folder("train")),
            ("tune", paths.folder("tune")),
            ("hypernetwork", paths.folder("hypernetwork")),
        ):
            if stage in trained:
                logs[name if stage == "train" else f"{name}, {stage}"] = pd.read_csv(
                    verified_file(folder / "log.csv", folder / "config.json", f"rpg {stage} --experiment {name}")
                )
    return logs


def _rules(text: str) -> nx.DiGraph:
    """Parse the graph of the rules from Snakemake's DOT text."""
    (dot,) = pydot.graph_from_dot_data(text) or []
    names = {node.get_name(): str(node.get("label")).strip('"') for node in dot.get_nodes() if node.get("label")}
    graph = nx.DiGraph()
    graph.add_nodes_from(names.values())
    ends = [(str(edge.get_source()), str(edge.get_destination())) for edge in dot.get_edges()]
    graph.add_edges_from((names[source], names[destination]) for source, destination in ends)
    return graph


def _jobs(params: Params) -> str:
    """Format the jobs' seconds and memory as an HTML table, the longest job first."""
    rows = []
    for name in params.experiments_to_run():
        for path in sorted((LOGS / name).glob("*.tsv")):
            usage = pd.read_csv(path, sep="\t").iloc[-1]
            rows.append(
                {
                    "experiment": name,
                    "job": path.stem,
                    "seconds": f"{float(usage['s']):.1f}",
                    "largest memory in MB": f"{float(usage['max_rss']):.0f}" if usage["max_rss"] != "NA" else "-",
                }
            )
    if not rows:
        return "<p>Snakemake has run no job here.</p>"
    rows.sort(key=lambda row: -float(row["seconds"]))
    return str(pd.DataFrame(rows).to_html(index=False, border=0))
