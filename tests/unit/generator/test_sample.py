import json
from pathlib import Path

import timm
import torch
from conftest import MINIATURE
from safetensors.torch import load_file

from rpg.config.loading import load_params
from rpg.generator.sample import sample_networks, sample_requests
from rpg.model import rpg as rpg_module
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_rpg
from rpg.utils.files import sha256

NETWORK = MINIATURE["task"]["network"]


def test_samples_load_as_they_are_and_spread_over_the_states(finished: Path) -> None:
    folder = finished / "results/mini/samples"
    manifest = json.loads((folder / "manifest.json").read_text())["samples"]
    assert [sample["state"] for sample in manifest] == [0, 1, 2, 0]
    for sample in manifest:
        path = folder / sample["file"]
        assert sha256(path) == sample["sha256"]
        network = timm.create_model(NETWORK["name"], **NETWORK["arguments"])
        network.load_state_dict(load_file(path))
        assert torch.isfinite(network.eval()(torch.zeros(1, 1, 8, 8))).all()
        # Counters are copied through from the last checkpoint of the state's seed.
        assert int(network.bn1.num_batches_tracked) == 44


def test_samples_of_task_codes_are_for_every_code_and_model(tasks: Path) -> None:
    folder = tasks / "results/tasks/samples"
    samples = json.loads((folder / "manifest.json").read_text())["samples"]
    seen = load_params(tasks / "params.yaml").experiment("tasks").task.seen_codes()
    # The third network of a code is again in the first state; what RPG is compared with makes one for each.
    for model, states in (("rpg", (0, 1, 0)), ("untuned", (0, 1)), ("hypernetwork", (0, 1))):
        own = [(sample["code"], sample["state"]) for sample in samples if sample["model"] == model]
        assert sorted(own[len(states) * 2 :]) == sorted((code, state) for code in seen for state in states)
        assert own[: len(states) * 2] == [(code, state) for code in ["0100111010", "0111100010"] for state in states]
    assert len(samples) == 7 * 8
    for sample in samples:
        assert sample["file"].startswith("" if sample["model"] == "rpg" else sample["model"])
        network = timm.create_model(NETWORK["name"], **{**NETWORK["arguments"], "num_classes": 2})
        network.load_state_dict(load_file(folder / sample["file"]))


def test_fewer_seen_codes_are_asked_for(tasks: Path) -> None:
    params = load_params(tasks / "params.yaml").experiment("tasks")
    store = TokenStore(tasks / "results/tasks/tokens")

    def requests_for(seen: int) -> list:
        return sample_requests(store, params.sample.model_copy(update={"seen": seen, "count": 3}), True)

    found = requests_for(1)
    code = found[-1][1]
    assert found[-3:] == [((0,), code), ((1,), code), ((0,), code)]
    assert len(found) == 9
    # Two pairs are held out, those of the codes that were drawn first: they come before all others.
    with_pair, others = set(params.task.seen_codes()[:2]), set(params.task.seen_codes()[2:])
    assert code in with_pair
    assert {code for _, code in requests_for(2)[6:]} == with_pair
    three = {code for _, code in requests_for(3)[6:]}
    assert three > with_pair
    assert len(three & others) == 1


def test_networks_sampled_together_are_those_sampled_alone(finished: Path) -> None:
    """The batch's oracle; the noise of each depends on its own index alone."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    model = load_rpg(finished / "results/mini/rpg", store, torch.device("cpu"))
    table = ConditionTable.of(experiment.model.conditions, store)
    wanted = [((k % 3,), None) for k in range(10)] + [((0, 2), None)]
    together = [network for network, _, _ in sample_networks(model, table, store, experiment.sample, wanted)]
    for k, request in enumerate(wanted):
        ((alone, state, code),) = sample_networks(model, table, store, experiment.sample, [request], first=k)
        assert (state, code) == request
        for name, tensor in alone.items():
            torch.testing.assert_close(together[k][name], tensor, rtol=1e-4, atol=1e-5)


def test_tokens_that_are_denoised_by_parts_are_the_same(finished: Path, monkeypatch) -> None:
    """The noise, too: torch draws 16 numbers at a time, and the miniature's width is a multiple of that."""
    store = TokenStore(finished / "results/mini/tokens")
    model = load_rpg(finished / "results/mini/rpg", store, torch.device("cpu"))
    values = {"permutation_state": torch.eye(2, len(store.seeds))}

    def sampled() -> torch.Tensor:
        draws = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        return model.sample(values, solver="dpm-solver++", steps=4, generators=draws)

    whole = sampled()
    monkeypatch.setattr(rpg_module, "TOGETHER", 7)
    assert store.layout.length % 7
    torch.testing.assert_close(sampled(), whole)


def test_networks_between_two_states(finished: Path) -> None:
    params = load_params(finished / "params.yaml").experiment("mini").sample
    store = TokenStore(finished / "results/mini/tokens")
    found = sample_requests(store, params.model_copy(update={"count": 2, "between": 4}), True)
    assert found[:2] == [((0,), None), ((1,), None)]
    # All three pairs before one comes again.
    pairs = [states for states, _ in found[2:]]
    assert set(pairs[:3]) == {(0, 1), (0, 2), (1, 2)}
    assert pairs[3] == pairs[0]
    # A model that knows no states is asked for none.
    assert sample_requests(store, params.model_copy(update={"count": 2}), False) == [(None, None)] * 2


def test_without_temperature_there_is_nothing_to_draw(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    model = load_rpg(finished / "results/mini/rpg", store, torch.device("cpu"))
    table = ConditionTable.of(experiment.model.conditions, store)
    cold = experiment.sample.model_copy(update={"temperature": 0.0})
    one, other = (network for network, _, _ in sample_networks(model, table, store, cold, [((1,), None)] * 2))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name])
