"""The figures of the report, as matplotlib figures in Okabe and Ito's colors, which suit color-blind readers.

Each function takes the results of the stages in memory and reads no files.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from rpg.evaluation.results import Agreement, Method
from rpg.tasks.base import Picture, Region
from rpg.utils.metric import PERCENT, MetricKind

matplotlib.rcParams |= {
    "svg.fonttype": "none",
    "svg.hashsalt": "rpg",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
)  # fmt: skip
GRAY, YELLOW = "#8c8c8c", "#b8a800"
# Group of methods → color, marker. A method belongs to the first group whose name its own name starts with.
GROUPS = {
    "originals": (BLACK, "o"),
    "RPG, not tuned": (YELLOW, "X"),
    "RPG, between states": (PURPLE, "*"),
    "RPG": (RED, "*"),
    "hypernetwork": (GREEN, "D"),
    "noise": (GRAY, "v"),
    "within": (SKY, "s"),
    "across": (BLUE, "P"),
    "formula": (ORANGE, "^"),
}
MIXED = ("mean w", "mean a", "interpolation", "Gaussian")


def as_image(figure: Figure) -> str:
    """Return the figure as a data URL of an SVG image."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()


def group(method: str) -> str:
    """Return the group in `GROUPS` of a method."""
    if method.startswith(MIXED):
        return "within" if "within" in method else "across"
    return next((name for name in GROUPS if method.startswith(name)), "formula")


def accuracy_and_distance(
    methods: Sequence[tuple[str, Method]], title: str, metric: str = "accuracy", metric_kind: MetricKind = PERCENT
) -> Figure:
    """Plot each method's mean accuracy, with interval, over the median distance from the zoo.

    The line joins the Pareto front of the methods without RPG. Better networks are above, also where lower is better.
    """
    figure = Figure(figsize=(7.4, 3.6))
    axes = figure.subplots()
    shown: set[str] = set()
    for name, measures in methods:
        kind = group(name)
        color, marker = GROUPS[kind]
        low, high = measures.interval or (measures.mean, measures.mean)
        axes.errorbar(
            max(measures.distance, 1e-2),
            measures.mean,
            yerr=[[max(0.0, measures.mean - low)], [max(0.0, high - measures.mean)]],
            color=color,
            marker=marker,
            markersize=13 if marker == "*" else 7,
            linewidth=1,
            linestyle="none",
            label=None if kind in shown else kind,
            zorder=3 if marker == "*" else 2,
        )
        shown.add(kind)
    others = [
        (max(measures.distance, 1e-2), metric_kind.rank(measures.mean))
        for name, measures in methods
        if not name.startswith("RPG")
    ]
    # A rank's rank is the score.
    front = [(distance, metric_kind.rank(rank)) for distance, rank in pareto(others)]
    axes.plot(*zip(*front, strict=True), color=GRAY, linewidth=1, linestyle="--", drawstyle="steps-pre", zorder=1)
    axes.set_xscale("log")
    axes.set_xlabel("median distance from the zoo, in units of the zoo's own")
    axes.set_ylabel(f"mean {metric} {metric_kind.in_unit}")
    if metric_kind.lower_is_better:
        axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front of points (distance, accuracy), nearest first: no other point is as good in both."""
    unique = sorted(set(points))
    return [point for point in unique if not any(q != point and q[0] >= point[0] and q[1] >= point[1] for q in unique)]


def asked_and_got(found: Sequence[Agreement], vector: str, title: str) -> Figure:
    """Plot mean and deviation of the scores on the test split over each asked number of `vector`, by set of states.

    The dashed line joins the mean scores to reach, those of the held-out states.
    """
    figure = Figure(figsize=(7.4, 3.6))
    axes = figure.subplots()
    chosen = [one for one in found if one.vector == vector]
    styles = zip((RED, PURPLE, BLUE, GRAY, GREEN, ORANGE), ("*", "P", "o", "v", "s", "^"), strict=True)
    for one, (color, marker) in zip(chosen, styles, strict=False):
        asked, got, std = zip(*((at.asked, at.got, at.std) for at in one.test.at), strict=True)
        label = f"{one.method.replace('_', ' ')}, {one.set.replace('_', '-')}"
        axes.errorbar(asked, got, yerr=std, color=color, marker=marker, linewidth=1, linestyle="none", label=label)
    aims = next((one for one in chosen if one.set == "held_out"), chosen[0]).test.at
    axes.plot([at.asked for at in aims], [at.aim for at in aims], color=BLACK, linewidth=1, linestyle="--", zorder=1)
    axes.set_xlabel(f"asked {vector}")
    axes.set_ylabel("score on the test split")
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


# Group of a page of generators → color, marker.
GENERATORS = {"originals": (BLACK, "o"), "RPG": (RED, "*"), "generator": (BLUE, "D"), "zoo": (GRAY, "v")}


def generators(measured: Sequence[Mapping[str, Any]], title: str, unit: str = "in percent") -> Figure:
    """Plot the mean score of each generator over its median distance from the zoo.

    `measured` holds method, mean, distance and a group of GENERATORS. Generators have their names beside them.
    """
    figure = Figure(figsize=(7.4, 3.6))
    axes = figure.subplots()
    for name, (color, marker) in GENERATORS.items():
        chosen = [one for one in measured if one["group"] == name]
        # The logarithmic axis has no place for a copy of a checkpoint.
        places = [max(one["distance"], 1e-2) for one in chosen]
        size = 13 if marker == "*" else 7
        axes.plot(
            places, [one["mean"] for one in chosen], marker, color=color, markersize=size, linestyle="none", label=name
        )
        for one, place in zip(chosen, places, strict=True) if name in ("RPG", "generator") else ():
            axes.annotate(one["method"], (place, one["mean"]), (5, 3), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("median distance from the zoo, in units of the zoo's own")
    axes.set_ylabel(f"mean score {unit}")
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def losses(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot training losses; `logs` maps names to the columns `step` and `loss`."""
    figure = Figure(figsize=(7.4, 3.4))
    axes = figure.subplots()
    colors = [RED, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK]
    for index, (name, log) in enumerate(logs.items()):
        style = ["-", "--", ":"][index // len(colors) % 3]
        axes.plot(log["step"], log["loss"], style, color=colors[index % len(colors)], linewidth=1.4, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def heat_maps(sample: np.ndarray, original: np.ndarray, title: str) -> Figure:
    """Show one tensor [rows, columns] of a sample and of its nearest original, and their difference."""
    figure = Figure(figsize=(7.4, 2.9))
    limit = float(max(np.abs(sample).max(), np.abs(original).max())) or 1.0
    for axes, values, name in zip(
        figure.subplots(1, 3),
        (original, sample, sample - original),
        ("nearest original", "sample", "difference"),
        strict=True,
    ):
        image = axes.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set_title(name)
        axes.grid(False)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title, x=0.02, ha="left", y=1.04)
    figure.colorbar(image, ax=figure.axes, shrink=0.9, label="weight")
    return figure


def projection(originals_NP: np.ndarray, samples: Mapping[str, np.ndarray], title: str) -> Figure:
    """Plot the first two principal components of the originals [N, P], with name → samples [n, P] in this plane."""
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.subplots()
    pca = PCA(2).fit(originals_NP)
    x_N, y_N = pca.transform(originals_NP).T
    axes.scatter(x_N, y_N, s=46, color=BLACK, alpha=0.6, label="originals", linewidth=0)
    for (name, points_NP), color, marker in zip(
        samples.items(), (RED, BLUE, GREEN, ORANGE), ("*", "P", "D", "^"), strict=False
    ):
        x_N, y_N = pca.transform(points_NP).T
        axes.scatter(x_N, y_N, s=60, color=color, marker=marker, label=name, alpha=0.9, linewidth=0)
    first, second = 100 * pca.explained_variance_ratio_
    axes.set_xlabel(f"first component ({first:.0f} % of the variance)")
    axes.set_ylabel(f"second component ({second:.0f} %)")
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def strip(pictures: Mapping[str, Sequence[Picture]]) -> Figure:
    """Show images in a row; below each image the truth and the regions that each named network found."""
    first = next(iter(pictures.values()))
    rows: dict[str, list[list[Region]]] = {
        "image": [[] for _ in first],
        "truth": [picture.truth for picture in first],
        **{name: [picture.predicted for picture in row] for name, row in pictures.items()},
    }
    figure = Figure(figsize=(1.45 * len(first), 1.45 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(first), squeeze=False)
    for axes_row, (name, region_lists) in zip(grid, rows.items(), strict=True):
        axes_row[0].set_ylabel(name)
        for axes, picture, regions in zip(axes_row, first, region_lists, strict=True):
            # Draw regions on a paler image, so that their colors and names stay visible.
            axes.imshow(picture.image if name == "image" else 255 - (255 - picture.image) // 3)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(False)
            for region in regions:
                _draw(axes, region)
    return figure


def _draw(axes: Axes, region: Region) -> None:
    rows, columns = np.nonzero(region.mask)
    if len(rows) == 0:
        return
    overlay = np.zeros((*region.mask.shape, 4))
    # Twenty colors in turn; regions of the same color differ by their name.
    overlay[region.mask] = (*matplotlib.colormaps["tab20"](region.index % 20)[:3], 0.7)
    axes.imshow(overlay, interpolation="nearest")
    # The center of a ring lies outside of it, so put the name at the pixel nearest to the center.
    nearest = np.argmin(np.hypot(rows - rows.mean(), columns - columns.mean()))
    axes.text(columns[nearest], rows[nearest], region.name, ha="center", va="center", fontsize=7, clip_on=True)


def rule_graph(graph: nx.DiGraph) -> Figure:
    """Draw the graph of the rules, from top to bottom."""
    graph = nx.transitive_reduction(graph)
    generations = list(nx.topological_generations(graph))
    for depth, names in enumerate(generations):
        for name in names:
            graph.nodes[name]["depth"] = -depth
    places = nx.multipartite_layout(graph, subset_key="depth", align="horizontal")
    places = {name: (3.2 * x, y) for name, (x, y) in places.items()}
    figure = Figure(figsize=(7.4, 0.8 * len(generations)))
    axes = figure.subplots()
    nx.draw_networkx_edges(graph, places, ax=axes, node_size=1100, arrowsize=11, edge_color=GRAY)
    for name, (x, y) in places.items():
        axes.text(
            x,
            y,
            name,
            ha="center",
            va="center",
            zorder=4,
            bbox={"boxstyle": "round,pad=0.35", "fc": "white", "ec": BLUE},
        )
    axes.set_axis_off()
    axes.margins(0.15)
    return figure
