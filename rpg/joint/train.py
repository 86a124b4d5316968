"""Train one RPG on the token stores of several experiments: `rpg joint --experiment digits-architectures`.

Each step takes checkpoints, or generated networks, of one architecture, drawn in proportion to the square of its number
of tokens. The stage writes, for each seed, <seed>/rpg/ (the diffusion loss, as `rpg train`) and <seed>/tune/ (the task
loss, as `rpg tune`), whichever the recipe has, each with model.safetensors (EMA weights), config.json and log.csv.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rpg.config.experiment import Experiment
from rpg.config.joint import JointExperiment
from rpg.config.params import Params
from rpg.joint.model import STATES, JointRPG
from rpg.model.rpg import RPG
from rpg.paths import paths_of
from rpg.sources import digest_of, joint_code
from rpg.tasks.loading import load_differentiable
from rpg.tokenizer.store import TokenStore
from rpg.training.hypernetwork import Generated
from rpg.training.train import train_loss
from rpg.training.trainer import Loss, Training, take_steps
from rpg.training.tune import tune_loss
from rpg.utils.artifacts import Form, ListedFile
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.files import (
    check_unchanged,
    file_entry,
    read_sealed,
    read_tensors,
    write_sealed,
    write_tensors,
    write_text,
)
from rpg.utils.rng import derive


class JointConfig(Form):
    """config.json of a joint RPG: the hashes of the tokens that it learned, and of its files."""

    parameters: Annotated[int, Field(ge=1)]
    tokens: dict[str, str]
    files: list[ListedFile]


@dataclass(frozen=True)
class JointTraining:
    """A joint experiment `name` with one seed, and the folder of its results."""

    params: Params
    name: str
    seed: int
    results: Path

    @property
    def joint(self) -> JointExperiment:
        return self.params.joint_experiment(self.name)

    @cached_property
    def recipe(self) -> Experiment:
        """The experiment whose blocks train the joint RPG."""
        return self.params.joint_recipe(self.name, self.seed)

    @cached_property
    def stores(self) -> list[TokenStore]:
        """The members' token stores; UserError if one is missing."""
        return [TokenStore(paths_of(self.params, name, self.results).folder("tokens")) for name in self.joint.members]

    @property
    def stages(self) -> list[str]:
        """The stages of the training: train, tune or both."""
        return [name for name, runs in (("train", self.recipe.train.steps), ("tune", self.recipe.tune)) if runs]

    def folder(self, stage: str) -> Path:
        """Return the folder of the model after `stage`."""
        return self.results / self.name / str(self.seed) / ("rpg" if stage == "train" else stage)

    def seconds(self, stage: str) -> Path:
        """Return the path of a stage's seconds."""
        return self.results / self.name / str(self.seed) / "seconds" / f"{stage}.json"

    def build(self) -> JointRPG:
        """Return an untrained joint RPG; UserError if the model's widths do not fit together."""
        architectures = [(store.layout, len(store.seeds)) for store in self.stores]
        width, target = self.stores[0].layout.width, self.recipe.diffusion.target
        try:
            return JointRPG(self.recipe.model, architectures, width=width, target=target)
        except ValueError as error:
            raise UserError(f"params.yaml: joint.{self.name}: {error}") from error

    def load(self) -> JointRPG:
        """Return the trained joint RPG, on the device; UserError if it is missing or was trained on other tokens."""
        folder, command = self.folder(self.stages[-1]), f"rpg joint --experiment {self.name}"
        config = read_sealed(folder / "config.json", command, JointConfig)
        if config.tokens != self._hashes():
            raise UserError(f"{folder}: trained on tokens of other zoos; run `{command}` again")
        expected = {entry.file: entry.sha256 for entry in config.files}
        check_unchanged(folder, "model.safetensors", expected.get("model.safetensors", ""), "trained", f"`{command}`")
        model = self.build()
        try:
            model.load_state_dict(read_tensors(folder / "model.safetensors"))
        except RuntimeError as error:
            raise UserError(
                f"{folder}: does not fit joint.{self.name} in params.yaml; run `{command}` again"
            ) from error
        return model.to(device()).eval()

    def run(self, data_root: str | None) -> None:
        """Train, and write the model of each stage and its seconds; Diverged if a loss is no longer finite."""
        on = device()
        torch.manual_seed(derive(self.seed, "joint", "weights"))
        model = self.build()
        sources = digest_of(joint_code(self.params.experiment(name).task for name in self.joint.experiments))
        for stage in self.stages:
            loss = self._train_loss(on) if stage == "train" else self._tune_loss(model, on, data_root)
            block = self.recipe.tune if stage == "tune" else self.recipe.train
            assert block
            training = Training(block, model, loss, stage, on)  # type: ignore[arg-type]
            learns_from = [self.joint.model_dump(), self.recipe.model_dump(), stage, self._hashes(), sources]
            folder = self.folder(stage)

            def write(state_dict: dict[str, Tensor], folder: Path = folder, training: Training = training) -> None:
                write_tensors(folder / "model.safetensors", state_dict)
                write_text(folder / "log.csv", training.log)
                files = [file_entry(folder / name) for name in ("log.csv", "model.safetensors")]
                config = {"parameters": training.parameters, "tokens": self._hashes(), "files": files}
                write_sealed(folder / "config.json", config)

            take_steps(training, folder, self.seconds(stage), learns_from, write)
            # As `rpg tune`, tuning starts from the averaged weights.
            model.load_state_dict(read_tensors(folder / "model.safetensors"))

    def _hashes(self) -> dict[str, str]:
        return {name: store.sha256 for name, store in zip(self.joint.members, self.stores, strict=True)}

    def _train_loss(self, on: torch.device) -> Loss:
        """Return the diffusion loss of a random architecture's checkpoints."""
        conditions = self.recipe.model.conditions
        losses = [train_loss(store, self.recipe.train, conditions, on) for store in self.stores]

        def draw(draw: torch.Generator) -> tuple[int, Any]:
            index = _index(self.stores, draw)
            return index, losses[index].draw(draw)

        return Loss(draw, lambda model, drawn: losses[drawn[0]].compute(_members(model)[drawn[0]], drawn[1]))

    def _tune_loss(self, model: JointRPG, on: torch.device, data_root: str | None) -> Loss:
        """Return the task loss of a random architecture's generated networks."""
        params, conditions = self.recipe.tune, self.recipe.model.conditions
        assert params
        losses, first = [], 0
        for name, store in zip(self.joint.members, self.stores, strict=True):
            experiment = self.params.experiment(name)
            task = load_differentiable(experiment.task, experiment.zoo, data_root)
            generated = Generated(task, store, conditions, params, on)
            if self.joint.across:
                after = model.states - first - len(store.seeds)
                generated.values[STATES] = functional.pad(generated.values[STATES], (first, after))
                first += len(store.seeds)
            losses.append(tune_loss(generated, params))
        asked = [model.asked(store.layout) for store in self.stores] if self.joint.across else model.members

        def draw(draw: torch.Generator) -> tuple[int, torch.Generator]:
            return _index(self.stores, draw), draw

        return Loss(draw, lambda model, drawn: losses[drawn[0]].compute(asked[drawn[0]], drawn[1]))


def _index(stores: Sequence[TokenStore], draw: torch.Generator) -> int:
    """Draw a member with a probability in proportion to the square of its number of tokens.

    A member with more tokens has more to learn. In proportion to the tokens alone, the ResNet of digits-architectures
    lagged behind in one of two trainings.
    """
    lengths = torch.tensor([float(store.layout.length) for store in stores])
    return int(torch.multinomial(lengths.square(), 1, generator=draw))


def _members(model: RPG | JointRPG) -> Sequence[RPG]:
    assert isinstance(model, JointRPG)
    return model.members
