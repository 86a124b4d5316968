"""Train RPG's network on the task loss alone, for comparison: `rpg hypernetwork --experiment digits-tasks`.

Writes hypernetwork/model.safetensors (EMA weights), hypernetwork/config.json and hypernetwork/log.csv. The network
generates weights in one step from noise. The loss never compares these weights with a checkpoint; only the layout and
statistics of the tokens enter, and the mean of the zoo with `hypernetwork.start: mean`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.config.model import Condition
from rpg.config.training import Hypernetwork, Tune
from rpg.model.diffusion import T
from rpg.model.rpg import RPG
from rpg.sources import code_digest
from rpg.tasks.base import DifferentiableTask
from rpg.tasks.loading import load_differentiable
from rpg.tasks.stack import StateDict
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import Values, checkpoint_values
from rpg.training.model_file import fresh
from rpg.training.prompts import Prompts, prompts_of
from rpg.training.trainer import Loss, Training, run_training
from rpg.utils.device import device
from rpg.utils.rng import derive


@dataclass(frozen=True)
class Drawn:
    """Random checkpoints of the zoo: their indices, the codes of their tasks, and the values of the conditions."""

    picks: list[int]
    codes: Sequence[str | None]
    values: Values


class Generated:
    """Generate networks for (state, code) pairs of the zoo, and compute the differentiable loss of their tasks."""

    def __init__(
        self,
        task: DifferentiableTask,
        store: TokenStore,
        conditions: Sequence[Condition],
        params: Hypernetwork | Tune,
        on: torch.device,
        prompts: Prompts | None = None,
    ) -> None:
        self.task, self.store, self.params, self.on, self.prompts = task, store, params, on, prompts
        self.conditions = conditions
        self.values = checkpoint_values(conditions, store)
        self.states_N = torch.tensor([store.state(checkpoint) for checkpoint in store.checkpoints])
        self.codes = [checkpoint.code for checkpoint in store.checkpoints]

    def draw(self, count: int, draw: torch.Generator) -> Drawn:
        """Draw `count` random checkpoints of the zoo, with prompts if RPG takes them."""
        picks = torch.randint(len(self.store), (count,), generator=draw).tolist()
        codes: Sequence[str | None] = [self.codes[pick] for pick in picks]
        values = {name: value[picks] for name, value in self.values.items()}
        if self.prompts:
            told = [code or "" for code in codes]
            codes, values[self.prompts.name] = self.prompts.drawn(told, self.params.absent, draw)
        return Drawn(picks, codes, {name: value.to(self.on) for name, value in values.items()})

    def from_noise(self, model: RPG, prototypes_BLW: Tensor, start_BLD: Tensor | None, draw: torch.Generator) -> Tensor:
        """Generate tokens [B, L, D] in one step from pure noise."""
        count = len(prototypes_BLW)
        x_BLD = torch.randn(count, model.length, model.width, generator=draw).to(self.on)
        return model.denoise(x_BLD, torch.full((count,), T - 1, device=self.on), prototypes_BLW, start_BLD)

    def loss(
        self,
        tokens_BLD: Tensor,
        picks: list[int],
        codes: Sequence[str | None],
        draw: torch.Generator,
        scores_B: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of the networks `tokens_BLD` of the checkpoints `picks`, in the tasks of `codes`.

        With `scores_B`, it is the distance from these scores.
        """
        params = self.params
        teachers = None
        if params.loss == "outputs":
            teachers = self._weights(torch.stack([self.store[pick] for pick in picks]), picks)
        weights = self._weights(tokens_BLD.float(), picks)
        if scores_B is not None:
            return self.task.score_losses(weights, scores_B, codes, params.images, draw).mean()
        return self.task.losses(weights, codes, params.images, draw, params.statistics, teachers).mean()

    def _weights(self, tokens_BLD: Tensor, picks: list[int]) -> StateDict:
        weights = self.store.detokenize(tokens_BLD, self.states_N[picks])
        return {name: tensor.to(self.on) for name, tensor in weights.items()}


def hypernetwork_loss(generated: Generated) -> Loss:
    """Return the task loss of networks generated in one step from noise."""

    def loss(model: RPG, draw: torch.Generator) -> Tensor:
        drawn = generated.draw(generated.params.networks, draw)
        prototypes_BLW, starts_BLD = model.recurrent(drawn.values), model.starts(drawn.values)
        tokens_BLD = generated.from_noise(model, prototypes_BLW, starts_BLD, draw)
        return generated.loss(tokens_BLD, drawn.picks, drawn.codes, draw)

    return Loss(lambda draw: draw, loss)


def train_hypernetwork(
    experiment: Experiment, tokens: Path, base: Path, folder: Path, seconds: Path, data_root: str | None
) -> None:
    """Train from scratch with the task codes in the token store `tokens`; write the model into `folder`.

    `base` is the folder of the base network, for prompts. Writes the training time into `seconds`. Raises Diverged if
    the loss stops being finite.
    """
    params, on = experiment.hypernetwork, device()
    assert params
    block = experiment.model.model_copy(update={"start": params.start})
    store = TokenStore(tokens)
    torch.manual_seed(derive(params.seed, "hypernetwork", "weights"))
    model = fresh(block, experiment.diffusion, store)
    task = load_differentiable(experiment.task, experiment.zoo, data_root)
    prompts = prompts_of(experiment, base, data_root)
    if prompts:
        prompts.fit(model)
    generated = Generated(task, store, experiment.model.conditions, params, on, prompts)
    training = Training(params, model, hypernetwork_loss(generated), "hypernetwork", on)
    blocks = experiment.model_dump(include={"task", "model", "diffusion", "hypernetwork"})
    learns_from = [blocks, store.sha256, code_digest("hypernetwork", experiment.task)]
    run_training(training, folder, seconds, block, experiment.diffusion, store, learns_from)
