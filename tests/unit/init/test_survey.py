"""What the checkpoints of a zoo have in common."""

from pathlib import Path

import pytest
import torch
from foreign import save, state, surveyed, write_runs

from rpg.init import survey as module
from rpg.init.survey import low_rank
from rpg.utils.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_found() -> None:
    write_runs(dtype=torch.bfloat16)
    save("zoo/1/last.pth", state(1, 2, torch.bfloat16))
    found = surveyed("zoo/*")
    assert {name: [path.name for path in paths] for name, paths in found.runs.items()} == {
        "zoo/0": ["1.pth", "2.pth"],
        "zoo/1": ["1.pth", "2.pth", "last.pth"],
    }
    assert (found.maker, found.dtypes) == ("torch.save, a state dict", {"bfloat16", "int64"})
    assert found.copies == {"zoo/1/last.pth": "2.pth"}
    assert [str(path) for path in found.read] == ["zoo/0/1.pth", "zoo/0/2.pth", "zoo/1/1.pth", "zoo/1/2.pth"]
    assert (found.unlike, found.one_start) == ([], False)
    assert [tensor["0.bias"].dtype for tensor in found.state_dicts()] == [torch.bfloat16] * 4


def test_of_a_large_zoo_the_ends_of_each_run_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs()
    save("zoo/0/3.pth", state(0, 3))
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    found = surveyed("zoo/*")
    assert [str(path) for path in found.read] == ["zoo/0/1.pth", "zoo/0/3.pth", "zoo/1/1.pth", "zoo/1/2.pth"]
    assert len(found.checkpoints) == 5


def test_a_run_of_separate_trainings_is_unlike() -> None:
    for run in range(3):
        save(f"zoo/all/{run}.pth", state(run, 1))
    assert surveyed("zoo/all").unlike == ["zoo/all"]


def test_runs_that_started_from_one_network_are_alike() -> None:
    for epoch in range(3):
        save(f"zoo/{epoch}.pth", state(0, epoch))
    found = surveyed("zoo/*.pth")
    assert found.one_start
    assert min(found.likeness) > 0.98


def test_networks_without_matrices_are_compared_by_all_weights() -> None:
    """A network that is one row of numbers says as much about its start as one of matrices."""
    draw = torch.Generator().manual_seed(0)
    for run in range(3):
        save(f"zoo/{run}.pth", {"weights": torch.randn(500, generator=draw)})
    found = surveyed("zoo/*.pth")
    assert not found.one_start
    assert max(map(abs, found.likeness)) < 0.2


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ([(0, 1)], "zoo/0.pth: is the only checkpoint; RPG learns from two or more"),
        ([(0, 1), (0, 1)], "zoo/0.pth: all checkpoints are the same; RPG learns from two or more"),
    ],
)
def test_one_checkpoint_is_no_zoo(states: list[tuple[int, int]], line: str) -> None:
    for place, one in enumerate(states):
        save(f"zoo/{place}.pth", state(*one))
    for runs in (["zoo/*.pth"], ["zoo"]):
        with pytest.raises(UserError) as error:
            surveyed(*runs)
        assert str(error.value) == line


def test_low_rank_pairs() -> None:
    assert low_rank({"m.lora_A.weight": torch.ones(2, 4), "m.lora_B.weight": torch.ones(4, 2)})
    assert not low_rank({"m.weight": torch.ones(2, 4)})
