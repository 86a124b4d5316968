import base64

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from rpg.evaluation.results import Agreement, Method
from rpg.reports.figures import (
    accuracy_and_distance,
    as_image,
    asked_and_got,
    generators,
    group,
    heat_maps,
    losses,
    pareto,
    projection,
    rule_graph,
    strip,
)
from rpg.tasks.base import Picture, Region
from rpg.utils.metric import MetricKind


def test_pareto_by_hand() -> None:
    points = [(1.0, 99.0), (2.0, 98.0), (1.5, 97.0), (4.0, 50.0), (3.0, 50.0), (0.5, 99.0), (2.0, 98.0)]
    assert pareto(points) == [(1.0, 99.0), (2.0, 98.0), (4.0, 50.0)]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("originals", "originals"),
        ("RPG", "RPG"),
        ("RPG, between states", "RPG, between states"),
        ("RPG, not tuned, seen", "RPG, not tuned"),
        ("hypernetwork, task loss only, seen", "hypernetwork"),
        ("noise 0.1", "noise"),
        ("mean within", "within"),
        ("mean across, aligned", "across"),
        ("Gaussian across", "across"),
        ("interpolation within", "within"),
        ("ridge regression, bits, seen", "formula"),
        ("mean of the seen networks, seen", "formula"),
    ],
)
def test_every_method_has_its_colour(method: str, expected: str) -> None:
    assert group(method) == expected


def test_axes_show_what_they_are_given() -> None:
    scores = {"mean": 97.0, "std": 1.0, "interval": [96.0, 98.0], "min": 95.0, "best": 99.0, "n": 4}
    of = Method(**scores, distance=2.0, novel={}, verdict="as noise")
    at_zoo = of.model_copy(update={"distance": 0.0})
    figure = accuracy_and_distance([("originals", of), ("RPG", at_zoo), ("noise 0.1", of)], "mini")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["originals", "RPG", "noise"]
    assert axes.get_title(loc="left") == "mini"
    logs = {"a": pd.DataFrame({"step": [10, 20], "loss": [1.0, 0.5]})}
    (line,) = losses(logs).axes[0].lines
    assert line.get_ydata().tolist() == [1.0, 0.5]


def test_better_networks_are_above_where_lower_is_better() -> None:
    scores = {"mean": 0.3, "std": 0.1, "interval": [0.2, 0.4], "min": 0.5, "best": 0.1, "n": 4}
    of = Method(**scores, distance=2.0, novel={}, verdict="as noise")
    better = of.model_copy(update={"mean": 0.1, "interval": None, "distance": 1.0})
    worse = of.model_copy(update={"mean": 0.9, "interval": None, "distance": 1.0})
    methods = [("originals", of), ("noise 0.1", better), ("noise 1", worse)]
    (axes,) = accuracy_and_distance(methods, "mini", "mse", MetricKind("", lower_is_better=True)).axes
    assert axes.get_ylabel() == "mean mse without a unit"
    assert axes.yaxis_inverted()
    front = axes.lines[-1]
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([1.0, 2.0], [0.1, 0.3])
    (axes,) = accuracy_and_distance(methods, "mini").axes
    assert axes.get_ylabel() == "mean accuracy in percent"
    assert not axes.yaxis_inverted()


def test_heat_maps_share_one_scale() -> None:
    sample, original = np.array([[1.0, -3.0]]), np.array([[2.0, 0.5]])
    images = [axes.images[0] for axes in heat_maps(sample, original, "x").axes[:3]]
    assert [image.get_clim() for image in images] == [(-3.0, 3.0)] * 3
    assert images[2].get_array().tolist() == [[-1.0, -3.5]]


def test_projection_keeps_distances_in_the_plane() -> None:
    """Points that lie in a plane are shown as they are."""
    draw = np.random.default_rng(0)
    plane = np.linalg.qr(draw.standard_normal((30, 2)))[0].T
    originals, samples = draw.standard_normal((10, 2)) @ plane, draw.standard_normal((4, 2)) @ plane
    first, second = projection(originals, {"RPG": samples}, "x").axes[0].collections
    for shown, true in ((first, originals), (second, samples)):
        assert np.linalg.norm(np.diff(shown.get_offsets(), axis=0), axis=1) == pytest.approx(
            np.linalg.norm(np.diff(true, axis=0), axis=1)
        )


def test_graph_goes_down_and_image_is_whole() -> None:
    figure = rule_graph(nx.DiGraph([("zoo", "train"), ("train", "tables"), ("zoo", "tables")]))
    places = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts}
    assert places["zoo"] > places["train"] > places["tables"]
    kind, _, data = as_image(figure).partition(",")
    assert kind == "data:image/svg+xml;base64"
    text = base64.b64decode(data).decode()
    assert ">train<" in text
    assert as_image(rule_graph(nx.DiGraph([("a", "b")]))) == as_image(rule_graph(nx.DiGraph([("a", "b")])))


def test_strip_has_images_truth_and_what_each_network_found() -> None:
    left, right = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    left[2:6, :3], right[2:6, 5:] = True, True
    image = np.full((8, 8, 3), 90, np.uint8)
    truth = [Region(3, "three", left), Region(7, "seven", right)]
    pictures = {
        "original": [Picture(image, truth, truth), Picture(image, [], [])],
        "sample": [Picture(image, truth, [Region(7, "seven", left)]), Picture(image, [], [Region(1, "one", right)])],
    }
    figure = strip(pictures)
    rows = [figure.axes[start : start + 2] for start in range(0, 8, 2)]
    assert [row[0].get_ylabel() for row in rows] == ["image", "truth", "original", "sample"]
    names = [[[text.get_text() for text in axes.texts] for axes in row] for row in rows]
    assert names == [[[], []], [["three", "seven"], []], [["three", "seven"], []], [["seven"], ["one"]]]
    # The image, then one overlay for each region, which leaves the rest as it is.
    _, overlay = rows[3][0].images
    assert (overlay.get_array()[..., 3] > 0).tolist() == left.tolist()
    (column, row) = rows[3][1].texts[0].get_position()
    assert right[row, column]


def test_scores_stand_over_the_asked_numbers() -> None:
    at = [{"asked": asked, "aim": asked + 1, "got": got, "std": 2.0} for asked, got in ((60.0, 61.5), (80.0, 78.0))]
    split = {"correlation": 1.0, "error": 1.5, "bias": 0.0, "at": at}
    tree = {"method": "rpg", "set": "held_out", "n": 4, "validation": split, "test": split}
    found = [Agreement.model_validate({**tree, "vector": vector}) for vector in ("accuracy", "step")]
    (axes,) = asked_and_got(found, "accuracy", "title").axes
    points, aims = axes.containers[0].lines[0].get_xydata(), axes.lines[-1].get_xydata()
    assert points.tolist() == [[60.0, 61.5], [80.0, 78.0]]
    assert aims.tolist() == [[60.0, 61.0], [80.0, 81.0]]
    assert len(axes.containers) == 1


def test_generators_have_their_names_beside_their_points() -> None:
    measured = [
        {"method": "originals", "group": "originals", "mean": 98.0, "distance": 1.0},
        {"method": "rpg", "group": "RPG", "mean": 97.0, "distance": 0.5},
        {"method": "flow", "group": "generator", "mean": 96.0, "distance": 0.0},
        {"method": "noise 0.1", "group": "zoo", "mean": 95.0, "distance": 2.0},
    ]
    (axes,) = generators(measured, "title").axes
    points = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert points == {
        "originals": [[1.0, 98.0]], "RPG": [[0.5, 97.0]], "generator": [[0.01, 96.0]], "zoo": [[2.0, 95.0]]
    }  # fmt: skip
    assert [text.get_text() for text in axes.texts] == ["rpg", "flow"]
