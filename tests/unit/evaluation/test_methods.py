"""Names of the methods in the tables, and the sources of their knowledge."""

import pytest

from rpg.evaluation.methods import METHODS, RECOUNTED, kinds, knows, label


def test_every_method_is_followed_by_its_recounted_variant() -> None:
    found = kinds()
    assert len(found) == len(set(found)) == 2 * len(METHODS)
    assert found[:4] == ["original", f"original{RECOUNTED}", "rpg", f"rpg{RECOUNTED}"]
    assert len({label(kind) for kind in found}) == len(found)


def test_labels() -> None:
    assert label("ridge") == "ridge regression, bits"
    assert label("ridge_recounted") == "ridge regression, bits, BatchNorm recounted"
    assert label("noise 0.1") == "noise 0.1"


@pytest.mark.parametrize(
    ("kind", "tune", "start", "expected"),
    [
        ("rpg", None, "zero", "zoo"),
        ("rpg", "labels", "zero", "zoo, labels"),
        ("rpg", "images", "zero", "zoo, images"),
        ("rpg_recounted", "labels", "zero", "zoo, labels, images"),
        # Images are images, however often they are read.
        ("rpg_recounted", "images", "zero", "zoo, images"),
        # Tuning is RPG's alone.
        ("untuned", "labels", "mean", "zoo"),
        ("hypernetwork", "labels", "zero", "labels"),
        ("hypernetwork", "labels", "mean", "mean of the zoo, labels"),
        ("hypernetwork_recounted", None, "mean", "mean of the zoo, labels, images"),
        ("base_lookup", "labels", "mean", "base network"),
        ("base_probe", "labels", "mean", "base network, own labels"),
        ("original_recounted", "labels", "mean", "own labels, images"),
    ],
)
def test_knowledge(kind: str, tune: str | None, start: str, expected: str) -> None:
    assert knows(kind, tune, start) == expected


def test_a_hypernetwork_that_learns_outputs_reads_no_labels() -> None:
    assert knows("hypernetwork", None, "mean", "outputs") == "zoo, images"
    assert knows("hypernetwork_recounted", None, "zero", "outputs") == "zoo, images"
    assert knows("rpg", "labels", "mean", "outputs") == "zoo, labels"
