"""Patterns in the list of runs, and the natural order of names."""

from pathlib import Path

import pytest

from rpg.tasks.custom.config import GivenZoo
from rpg.tasks.custom.runs import expanded, is_pattern, natural


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ten folders of runs, one of them in another folder, and files of runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("seed-10", "seed-9", "seed-1", "old/seed-2"):
        Path("zoo", name).mkdir(parents=True)
    for name in ("a-2.pth", "a-10.pth", "notes.txt", ".hidden.pth"):
        Path("zoo", name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("entries", "runs"),
    [
        (["zoo/seed-*"], ["zoo/seed-1", "zoo/seed-9", "zoo/seed-10"]),
        (["zoo/seed-?"], ["zoo/seed-1", "zoo/seed-9"]),
        (["zoo/seed-[19]"], ["zoo/seed-1", "zoo/seed-9"]),
        (["zoo/**/seed-*"], ["zoo/old/seed-2", "zoo/seed-1", "zoo/seed-9", "zoo/seed-10"]),
        (["zoo/*.pth"], ["zoo/a-2.pth", "zoo/a-10.pth"]),
        (["zoo/seed-9", "zoo/a-*.pth"], ["zoo/seed-9", "zoo/a-2.pth", "zoo/a-10.pth"]),
        (["zoo/other-*", "zoo/none"], ["zoo/other-*", "zoo/none"]),
    ],
)
def test_a_pattern_becomes_its_matches_in_natural_order(here: Path, entries: list[str], runs: list[str]) -> None:
    assert expanded(entries) == runs
    assert GivenZoo(runs=entries, runs_per_shard=1).names == runs


def test_a_folder_with_such_a_name_is_no_pattern(here: Path) -> None:
    Path("zoo/lr[1]").mkdir()
    assert not is_pattern("zoo/lr[1]")
    # A configuration that was loaded is loaded again, for the variants of an ablation.
    zoo = GivenZoo(runs=["zoo/lr*"], runs_per_shard=1)
    assert zoo.names == ["zoo/lr[1]"]
    assert GivenZoo.model_validate(zoo.model_dump()) == zoo
    assert "facts" not in zoo.model_dump()


def test_a_run_that_is_also_matched_is_listed_twice(here: Path) -> None:
    with pytest.raises(ValueError, match="a folder is listed twice"):
        GivenZoo(runs=["zoo/seed-9", "zoo/seed-*"], runs_per_shard=1)


def test_names_are_sorted_by_their_numbers() -> None:
    names = ["epoch-10.pth", "epoch-9.pth", "1.pth", "last.pth", "a", "epoch-2-b.pth", "epoch-2-a.pth"]
    assert sorted(names, key=natural) == [
        "1.pth", "a", "epoch-2-a.pth", "epoch-2-b.pth", "epoch-9.pth", "epoch-10.pth", "last.pth"
    ]  # fmt: skip
