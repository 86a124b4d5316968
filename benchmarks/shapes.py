"""Random zoos with the paper's shapes, at full size or a fraction, and both procedures on these zoos."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.published import Published
from rpg.config.experiment import Experiment, parse_experiment
from rpg.config.loading import load_params
from rpg.model.backbones import TokenPositions
from rpg.model.rpg import RPG
from rpg.training.conditions import Values, checkpoint_values
from rpg.training.train import train_loss
from rpg.training.trainer import Training
from rpg.utils.device import device
from rpg.zoo.manifest import Checkpoint


@dataclass(frozen=True)
class Shape:
    """L tokens of width D, M recurrent channels, and the paper's experiment with this shape."""

    experiment: str
    length: int
    width: int
    recurrent: int
    batch: int
    diffusion_batch: int
    channels: tuple[int, ...]


# As published for one GPU, with the batch of checkpoints and the batch of tokens.
SHAPES = {
    "vit_tiny": Shape("imagenet-vit_tiny", 808, 8192, 8192, 4, 1024, (1, 32, 64, 128, 64, 32, 1)),
    "vit_base": Shape("imagenet-vit_base", 5378, 16384, 12288, 2, 512, (1, 64, 96, 64, 1)),
    "convnext_large": Shape("imagenet-convnext_large", 12311, 16384, 12288, 2, 448, (1, 64, 96, 64, 1)),
}
# Our networks: key → name in the tables.
OURS = {"paper": "published network", "residual": "default network"}
# Checkpoints of the random zoo.
STATES = 5


def shrunk(shape: Shape, fraction: int) -> Shape:
    """Divide D and M of a shape; keep tokens, checkpoints and channels."""
    return Shape(**{**vars(shape), "width": shape.width // fraction, "recurrent": shape.recurrent // fraction})


class Zoo:
    """Random tokens that replace a token store."""

    def __init__(self, shape: Shape) -> None:
        self.seeds = list(range(STATES))
        self.checkpoints = [
            Checkpoint(file=f"{seed:04d}", sha256="", seed=seed, step=0, held_out=False) for seed in self.seeds
        ]
        self.tokens_NLD = torch.randn(STATES, shape.length, shape.width)
        self.positions_L2 = torch.stack([torch.arange(shape.length) % 64, torch.arange(shape.length) // 64], 1)

    @property
    def layout(self) -> "Zoo":
        return self

    @property
    def length(self) -> int:
        return self.tokens_NLD.shape[1]

    @property
    def width(self) -> int:
        return self.tokens_NLD.shape[2]

    def __len__(self) -> int:
        return STATES

    def __getitem__(self, index: int) -> Tensor:
        return self.tokens_NLD[index]

    def state(self, checkpoint: Checkpoint) -> int:
        return self.seeds.index(checkpoint.seed)


def experiment_of(shape: Shape, network: str) -> Experiment:
    """Return the paper's experiment at this shape; with `residual`, the default network at the same width."""
    params = load_params()
    tree = params.experiment(shape.experiment).model_dump()
    if network == "residual":
        tree["model"] = params.experiment("digits-vit").model.model_dump()
        tree["model"]["backbone"] |= {"width": shape.recurrent, "state_width": 128}
        tree["model"]["denoiser"] |= {"hidden": shape.recurrent}
        tree["diffusion"] = {"target": "x0"}
        tree["sample"] |= {"solver": "dpm-solver++", "steps": 10}
    else:
        tree["model"]["backbone"]["width"] = shape.recurrent
    tree["tokens"]["width"] = shape.width
    tree["train"] |= {"batch": shape.batch, "diffusion_batch": shape.diffusion_batch}
    return parse_experiment(tree)


def our_model(experiment: Experiment, zoo: Zoo) -> RPG:
    """Build the experiment's RPG for the zoo's tokens."""
    known = TokenPositions(zoo.positions_L2.to(device()), torch.zeros(zoo.length, dtype=torch.bool, device=device()))
    sizes = {"permutation_state": STATES}
    torch.manual_seed(0)
    # Build on the device, because a CPU takes a minute to draw so many weights.
    with device():
        return RPG(experiment.model, known, width=zoo.width, sizes=sizes, target=experiment.diffusion.target)


def our_training(experiment: Experiment, zoo: Any) -> Training:
    """Return a new training of the experiment's RPG."""
    model, on = our_model(experiment, zoo), device()
    loss = train_loss(zoo, experiment.train, experiment.model.conditions, on)
    return Training(experiment.train, model, loss, "train", on)


def states(zoo: Any, experiment: Experiment, count: int) -> Values:
    """Return the condition values of the zoo's first `count` networks."""
    values = checkpoint_values(experiment.model.conditions, zoo)
    return {name: value[:count].to(device()) for name, value in values.items()}


def published_model(shape: Shape, zoo: Zoo) -> Published:
    """Build the published network for the zoo's tokens."""
    torch.manual_seed(0)
    with device():
        return Published(zoo.positions_L2.to(device()), shape.width, shape.recurrent, STATES, list(shape.channels))


class PublishedSteps:
    """Steps of the published training, with the zoo's tokens in memory."""

    def __init__(self, shape: Shape, zoo: Zoo) -> None:
        self.shape, self.zoo = shape, zoo
        self.model = published_model(shape, zoo).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-5)

    def one_step(self) -> float:
        """Take one optimizer step; return the loss as a number, which waits for the GPU, as published."""
        # torch's default.
        torch.backends.cudnn.allow_tf32 = True
        picked = torch.randperm(STATES)[: self.shape.batch]
        tokens_BLD = torch.stack([self.zoo[index] for index in picked.tolist()]).to(device())
        loss = self.model.loss(tokens_BLD, picked.to(device()), self.shape.diffusion_batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
