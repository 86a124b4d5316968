"""RPG's loss on tokens: what is drawn, and that it is learned."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from together import changed
from trainings import artifacts, new_training, train

from rpg.config.loading import load_params
from rpg.config.model import Diffusion
from rpg.model.diffusion import T
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import checkpoint_values
from rpg.training.model_file import fresh
from rpg.training.train import drawn_tokens, picked_tokens


def test_training_again_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    assert train(finished, tmp_path / "rpg") == artifacts(finished / "results/mini/rpg")
    assert not (tmp_path / "rpg/state").exists()


def test_log_and_loss(finished: Path) -> None:
    log = pd.read_csv(finished / "results/mini/rpg/log.csv")
    assert log["step"].tolist() == [10, 20, 30, 40]
    # Normalised weights have a mean square near 1; learning the prototypes takes it down.
    # Three seeds have 1.46 to 1.49 at first, and then 0.68 to 0.69 of it.
    assert 0.7 < log["loss"][0] < 2.0
    assert log["loss"][3] < 0.9 * log["loss"][0]


def test_draws_are_further_times_and_noise_of_the_same_tokens() -> None:
    one, three = (drawn_tokens((2, 5, 4), 6, None, draws, torch.Generator().manual_seed(0)) for draws in (1, 3))
    assert torch.equal(three[0], one[0].repeat(3))
    assert [len(tensor) for tensor in three] == [18, 18, 18]
    assert three[2].unique(dim=0).shape == (18, 4)


def test_shared_times_are_evenly_spread_and_each_has_as_many_tokens() -> None:
    seen = set()
    for seed in range(20):
        picks, t, noise = drawn_tokens((4, 5, 3), 14, 4, 1, torch.Generator().manual_seed(seed))
        # 14 is no multiple of 4.
        assert [list(tensor.shape) for tensor in (picks, t, noise)] == [[4, 3], [4, 1], [4, 3, 3]]
        assert len(picks.unique()) == 12
        assert set(t[:, 0].diff().tolist()) == {T // 4}
        assert 0 <= t[0, 0] < T // 4
        seen.add(t[0, 0].item())
    assert len(seen) > 15
    # There are no more times than tokens.
    assert drawn_tokens((1, 2, 3), 14, 4, 1, torch.Generator())[1].shape == (2, 1)


def test_no_shared_time_is_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([1 - 2**-24]))
    assert drawn_tokens((4, 16, 3), 64, 32, 1, torch.Generator())[1].max() == T - 1


def test_picked_tokens_are_those_of_the_picked_checkpoints(finished: Path) -> None:
    store = TokenStore(finished / "results/mini/tokens")
    picks = torch.randperm(2 * store.layout.length, generator=torch.Generator().manual_seed(0))[:12].unflatten(
        0, (3, 4)
    )
    whole = torch.stack([store[4], store[1]]).flatten(0, 1)
    torch.testing.assert_close(picked_tokens(store, [4, 1], picks), whole[picks], rtol=0, atol=0, equal_nan=True)


def test_errors_of_tokens_that_share_a_time_are_those_of_each_alone(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    for start in ("zero", "mean"):
        model = fresh(experiment.model.model_copy(update={"start": start}), experiment.diffusion, store)
        tokens_BLD = torch.stack([store[0], store[1]])
        values = {"permutation_state": torch.eye(2, len(store.seeds))}
        picks, t, noise = drawn_tokens(tokens_BLD.shape, 16, 4, 1, torch.Generator().manual_seed(0))
        tokens = tokens_BLD.flatten(0, 1)[picks]
        together, count = model(values, tokens, picks, t, noise)
        each = (picks.flatten(), t.expand(picks.shape).flatten(), noise.flatten(0, 1))
        alone, of_each = model(values, tokens.flatten(0, 1), *each)
        assert count == of_each
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("model", ["paper", "residual"])
@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_every_architecture_and_target_learns(finished: Path, model: str, target: str) -> None:
    """40 steps of the ordinary training bring the loss on fixed checkpoints, times and noise down."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    experiment = changed(experiment, model).model_copy(update={"diffusion": Diffusion(target=target)})
    store = TokenStore(finished / "results/mini/tokens")
    training = new_training(experiment, store)
    draw = torch.Generator().manual_seed(0)
    picks = torch.arange(len(store) * store.layout.length)
    t = torch.randint(1000, picks.shape, generator=draw)
    noise = torch.randn(len(picks), store.layout.width, generator=draw)
    tokens_NLD = torch.stack([store[index] for index in range(len(store))])

    @torch.no_grad()
    def loss() -> float:
        prototypes = training.model.recurrent(checkpoint_values(experiment.model.conditions, store))
        return training.model.loss(tokens_NLD.flatten(0, 1)[picks], prototypes, picks, t, noise).item()

    before = loss()
    for _ in range(40):
        training.one_step()
    # Of three seeds and all cases the worst, `paper` with v, has 0.967 to 0.979.
    assert loss() < 0.99 * before
