"""Patterns in the list of runs, and the natural order of names."""

from pathlib import Path

import pytest

from rpg.tasks.custom.config import GivenZoo
from rpg.tasks.custom.runs import expanded, grouped, is_pattern, natural, run_of


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


@pytest.mark.parametrize(
    ("path", "expression", "run"),
    [
        ("zoo/net_a_1.pth", r"net_(.)_", "a"),
        # Without groups, the whole match; with several, all that take part.
        ("zoo/net_a_1.pth", r"net_.", "net_a"),
        ("zoo/net_a_1.pth", r"(net)_(x)?(.)", "net-a"),
        ("zoo/net_a_1.pth", r"other", None),
    ],
)
def test_the_run_of_a_path(path: str, expression: str, run: str | None) -> None:
    assert run_of(path, expression) == run


def test_paths_with_the_same_text_are_one_run() -> None:
    paths = ["z/10-1.pth", "z/9-1.pth", "z/10-2.pth", "z/odd.pth"]
    # In natural order of the names; a path without a match stays on its own.
    assert list(grouped(paths, r"(\d+)-").items()) == [
        ("9", ["z/9-1.pth"]),
        ("10", ["z/10-1.pth", "z/10-2.pth"]),
        ("z/odd.pth", ["z/odd.pth"]),
    ]
    assert grouped(paths, None) == {path: [path] for path in paths}


def test_groups_of_checkpoints_are_runs(here: Path) -> None:
    zoo = GivenZoo(runs=["zoo/*.pth"], runs_per_shard=1, state_from=r"/(.)-")
    assert zoo.found == {"a": ["zoo/a-2.pth", "zoo/a-10.pth"]}
    with pytest.raises(ValueError, match=r"state_from\n.*no regular expression"):
        GivenZoo(runs=["zoo/*.pth"], runs_per_shard=1, state_from="(")


def test_runs_that_are_held_out(here: Path) -> None:
    Path("zoo/lr=[1]").mkdir()
    zoo = GivenZoo(runs=["zoo/seed-*", "zoo/lr*"], runs_per_shard=1, held_out=["zoo/lr=[1]", "zoo/seed-1*"])
    # A name with brackets names itself, and a pattern all of its matches.
    assert [name for name in zoo.names if zoo.is_held_out(name)] == ["zoo/seed-1", "zoo/seed-10", "zoo/lr=[1]"]
    with pytest.raises(ValueError, match="held_out: RPG would learn from no run; remove a name"):
        GivenZoo(runs=["zoo/seed-*"], runs_per_shard=1, held_out=["zoo/*"])


def test_braces_in_a_match_are_refused(here: Path) -> None:
    """Snakemake would take them for a wildcard of its own."""
    Path("zoo/{x}").mkdir()
    with pytest.raises(ValueError, match=r"runs: Snakemake reads braces as a wildcard; rename zoo/\{x\}"):
        GivenZoo(runs=["zoo/?x?"], runs_per_shard=1)
