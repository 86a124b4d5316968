"""Which checkpoints belong to one run, by their paths."""

import pytest

from rpg.init.grouping import BY_COUNTER, BY_FOLDER, Grouping, group
from rpg.tasks.custom.runs import run_of

FOLDER = Grouping(BY_FOLDER, "the checkpoints of a folder are a run")
COUNTER = Grouping(BY_COUNTER, "checkpoints that differ in their count of epochs or steps are a run")
EACH = Grouping(None, "each checkpoint is a run; --state-from groups them")


@pytest.mark.parametrize(
    ("paths", "grouping"),
    [
        (["zoo/a/1.pth", "zoo/a/2.pth", "zoo/b/1.pth"], FOLDER),
        # Folders with one checkpoint each say nothing.
        (["zoo/a/model.pth", "zoo/b/model.pth"], EACH),
        (["zoo/seed-0_epoch=1.pth", "zoo/seed-0_epoch=2.pth", "zoo/seed-1_epoch=1.pth"], COUNTER),
        (["r/a/checkpoint-1/model.pt", "r/a/checkpoint-2/model.pt", "r/b/checkpoint-1/model.pt"], COUNTER),
        # A count alone is no run with several checkpoints.
        (["zoo/a-epoch1.pth", "zoo/b-epoch1.pth"], EACH),
        # One path without a count: all are left as they are.
        (["zoo/a-epoch1.pth", "zoo/a-epoch2.pth", "zoo/a-last.pth"], EACH),
        (["zoo/net_a_1.pth", "zoo/net_a_2.pth"], EACH),
        # A file in the working folder has no folder in its path.
        (["net.pth", "zoo/a/1.pth", "zoo/a/2.pth"], EACH),
    ],
)
def test_the_first_rule_that_fits_groups_the_paths(paths: list[str], grouping: Grouping) -> None:
    assert group(paths, False) == grouping


def test_folders_of_several_checkpoints_are_runs() -> None:
    assert group(["zoo/a", "zoo/b"], True) == Grouping(None, "each folder is a run")


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("zoo/seed-0_epoch=3.pth", "zoo/seed-0"),
        ("zoo/seed-0_epoch=3-step=900.ckpt", "zoo/seed-0"),
        ("zoo/epoch_3_seed-0.pth", "zoo-seed-0"),
        ("zoo/lr0.1-step_20.safetensors", "zoo/lr0.1"),
        ("zoo/a/checkpoint-500/model.safetensors", "zoo/a-model"),
        ("zoo/a.ckpt-7.pth", "zoo/a"),
        ("zoo/a-epoch12.pth.tar", "zoo/a"),
    ],
)
def test_the_run_is_the_path_without_the_count(path: str, run: str) -> None:
    assert run_of(path, BY_COUNTER) == run


def test_the_run_is_the_folder() -> None:
    assert run_of("zoo/lr=[0.1] a/epoch-3.pth", BY_FOLDER) == "zoo/lr=[0.1] a"
