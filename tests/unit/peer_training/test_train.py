"""Training of generators in RPG's place: phases, resume, alignment, views."""

from pathlib import Path

import pytest
import torch
from peers import PEERS, with_peer

from rpg.config.loading import load_params
from rpg.config.params import _changed
from rpg.peer_training.train import PhasedTraining, first_steps, train_peer
from rpg.peer_training.vectors import read_vectors
from rpg.peers.base import Peer
from rpg.peers.build import KINDS, build_peer
from rpg.peers.loading import load_peer
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_rpg
from rpg.training.prompts import prompts_of
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, write_sealed


def trained(finished: Path, folder: Path, kind: str, **keys: object) -> dict[str, bytes]:
    experiment = with_peer(finished, kind, **keys)
    train_peer(experiment, finished / "results/mini/tokens", folder, folder.parent / "seconds.json", folder, None)
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "log.csv")}


def test_all_kinds_are_tried() -> None:
    assert PEERS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", PEERS)
def test_training_writes_what_rpg_writes_and_again_the_same_bytes(finished: Path, tmp_path: Path, kind: str) -> None:
    assert trained(finished, tmp_path / "one", kind) == trained(finished, tmp_path / "other", kind)
    store = TokenStore(finished / "results/mini/tokens")
    model = load_peer(tmp_path / "one", store, torch.device("cpu"))
    values = ConditionTable.of(with_peer(finished, kind).model.conditions, store).requested(
        [((0,), None), ((1,), None)], [torch.Generator().manual_seed(k) for k in range(2)]
    )

    def sampled(*seeds: int) -> torch.Tensor:
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        return model.sample({name: of[: len(seeds)] for name, of in values.items()}, generators=draws)

    both = sampled(0, 1)
    assert both.shape == (2, store.layout.length, store.layout.width)
    assert both.isfinite().all()
    # A network depends on its own seed alone, up to rounding of larger products.
    assert torch.allclose(both[:1], sampled(0), atol=1e-4)
    assert not torch.allclose(both[0], sampled(5)[0], atol=1e-4) or kind == "flow"
    with pytest.raises(UserError, match="another generator in RPG's place"):
        load_rpg(tmp_path / "one", store, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["p_diff", "d2nwg"])
def test_a_stopped_training_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path, kind: str) -> None:
    experiment = with_peer(finished, kind, steps=20)
    store, on = TokenStore(finished / "results/mini/tokens"), torch.device("cpu")
    zoo = read_vectors(experiment, store, load_task(experiment.task, None))
    sizes = ConditionTable.of(experiment.model.conditions, store).sizes

    def new() -> PhasedTraining:
        torch.manual_seed(0)
        assert experiment.model.generator
        model = build_peer(experiment.model.generator, store.layout.padding(), sizes)
        model.fit(zoo)
        return PhasedTraining(experiment.train, model, zoo, on)

    # Once in the first phase, once in the second.
    for stop in (7, 13):
        whole, first, second = new(), new(), new()
        for _ in range(20):
            whole.one_step()
        for _ in range(stop):
            first.one_step()
        first.save(tmp_path / "state.safetensors", "mine")
        assert second.resume(tmp_path / "state.safetensors", "mine")
        for _ in range(20 - stop):
            second.one_step()
        for name, tensor in whole.averaged().items():
            assert torch.equal(tensor, second.averaged()[name]), name


def test_phases_follow_each_other_and_decay_on_their_own(finished: Path) -> None:
    assert first_steps((0.5, 0.5), 20) == [1, 11]
    assert first_steps((0.3, 0.7), 10) == [1, 4]
    assert first_steps((1.0,), 10) == [1]
    experiment = with_peer(finished, "p_diff", steps=20)
    store = TokenStore(finished / "results/mini/tokens")
    zoo = read_vectors(experiment, store, load_task(experiment.task, None))
    assert experiment.model.generator
    model = build_peer(experiment.model.generator, store.layout.padding(), {"permutation_state": 3})
    training = PhasedTraining(experiment.train, model, zoo, torch.device("cpu"))
    assert [training.phase(step) for step in (1, 10, 11, 20)] == [0, 0, 1, 1]
    assert training.rate(10) == pytest.approx(0.0, abs=1e-9)
    assert training.rate(11) == experiment.train.learning_rate
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(10):
        training.one_step()
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"autoencoder"}
    training.one_step()
    moved = {name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, after[name])}
    assert moved == {"center", "scale", "denoiser"}


@pytest.mark.parametrize("kind", ["d2nwg", "flow"])
def test_a_peer_learns_from_images_of_the_task(shown: Path, tmp_path: Path, kind: str) -> None:
    """Networks for two support sets differ; so the images are read in training, on disk, and at sampling."""
    generator = PEERS[kind] if kind == "flow" else {**PEERS[kind], "hidden": 64, "latent": 8, "width": 64}
    changes = {"model.generator": generator, "train.steps": 300, "train.learning_rate": 0.005}
    removed = dict.fromkeys(("tune", "hypernetwork", "prompts"))
    experiment = _changed(load_params(shown / "params.yaml").experiment("shown"), {**changes, **removed}, "peers")
    results = shown / "results/shown"
    train_peer(experiment, results / "tokens", tmp_path / "rpg", tmp_path / "seconds.json", results / "base", None)
    store = TokenStore(results / "tokens")
    model = load_peer(tmp_path / "rpg", store, torch.device("cpu"))
    prompts = prompts_of(experiment, results / "base", None)
    assert prompts
    assert isinstance(model, Peer)
    assert model.conditions.images is not None
    mean_F = prompts.features_nF.mean(0)
    assert torch.allclose(model.conditions.images.mean, mean_F, atol=1e-5)
    table = ConditionTable.of(experiment.model.conditions, store)
    codes = [checkpoint.code or "" for checkpoint in store.checkpoints[:2]]
    values = prompts.values(codes, 5, True, torch.Generator().manual_seed(0))

    def sampled(seed: int) -> torch.Tensor:
        draws = [torch.Generator().manual_seed(seed) for _ in codes]
        told = table.requested([((0,), None)] * 2, draws, None, values)
        return model.sample(told, generators=draws)

    # The same noise for both, so the difference is that of the images.
    one, other = sampled(0)
    assert not torch.allclose(one, other, atol=1e-3)
    with pytest.raises(UserError, match="needs images"):
        table.requested([((0,), None)], [torch.Generator()])


def test_a_width_beyond_the_stored_weights_is_one_line(finished: Path, tmp_path: Path) -> None:
    """Such a network is not even built: it may not fit into memory."""
    trained(finished, tmp_path / "rpg", "d2nwg")
    config = read_json(tmp_path / "rpg/config.json", "rpg train")
    config["model"]["generator"]["hidden"] = 10**12
    write_sealed(tmp_path / "rpg/config.json", config)
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit config\.json.*run `rpg train` again"):
        load_peer(tmp_path / "rpg", TokenStore(finished / "results/mini/tokens"), torch.device("cpu"))
