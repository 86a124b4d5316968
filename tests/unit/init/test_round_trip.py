"""A checkpoint as tokens and back."""

from pathlib import Path

import pytest
import torch
from foreign import network, state, surveyed, write_functions, write_runs

from rpg.init.round_trip import outputs, round_trip, same_function


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 3e-7), (torch.float16, 0.0), (torch.bfloat16, 0.0)])
def test_the_way_through_the_tokens(dtype: torch.dtype, most: float) -> None:
    write_runs(dtype=dtype)
    write_functions(Path())
    found = surveyed("zoo/*", task={"build": "mine:build"})
    trip = round_trip(found, 16, False, found.copied(False, None))
    assert list(trip.before) == list(trip.after) == list(network().state_dict())
    assert torch.equal(trip.before["0.weight"], state(1, 2, dtype)["0.weight"])
    assert 0 <= trip.difference <= most
    for name, tensor in trip.after.items():
        assert tensor.dtype == trip.before[name].dtype
    assert torch.equal(trip.after["1.num_batches_tracked"], torch.tensor(2))


def test_the_outputs_are_those_of_the_network() -> None:
    write_runs()
    write_functions(Path())
    found = surveyed("zoo/*", task={"build": "mine:build"})
    inputs = torch.randn(5, 4)
    (made,) = outputs(found, state(1, 2), inputs)
    own = network().eval()
    own.load_state_dict(state(1, 2))
    torch.testing.assert_close(made, own(inputs))


def test_no_guess_of_the_inputs_fits() -> None:
    """A network that fails for every guess is not compared; the line names the remedy."""
    write_runs()
    write_functions(Path())
    lines = ("from mine import build as made", "def build():", "    network = made()", "    network.forward = None")
    Path("odd.py").write_text("\n".join([*lines, "    return network"]))
    found = surveyed("zoo/*", task={"build": "odd:build"})
    trip = round_trip(found, 16, False, found.copied(False, None))
    (line,) = same_function(found, trip)
    assert line == "round trip: outputs not compared, because no guess of the inputs fits; give --score"
