"""Image classification with timm networks, scored by top-1 accuracy."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.data import load_data
from rpg.data.images import Images
from rpg.device import device
from rpg.errors import UserError
from rpg.params import ClassificationTask, Zoo
from rpg.seeds import derive, generator

SCORE_BATCH = 1000


class Classification:
    """Builds, trains and scores the classifiers of one experiment."""

    metric = "top1"

    def __init__(self, params: ClassificationTask, data_root: str | None) -> None:
        self.params = params
        self.data_root = data_root

    @cached_property
    def data(self) -> Images:
        """The data set, read when first needed; UserError if its folder is missing."""
        return load_data(self.params.data, self.data_root)

    def build(self) -> nn.Module:
        """A new network with weights from torch's global generator; UserError if timm refuses its arguments."""
        import timm

        network = self.params.network
        try:
            return timm.create_model(network.name, pretrained=False, **network.arguments)
        except Exception as error:
            # The arguments go to any of a hundred network classes, which fail each in its own way.
            raise self._refused(error) from error

    def check(self) -> None:
        """UserError if the network does not take the images of the data set or does not give one score per class."""
        network = self.build().eval()
        inputs = self.data.inputs(self.data.train.images[:2], self.params.resolution)
        try:
            with torch.inference_mode():
                shape = tuple(network(inputs).shape)
        except Exception as error:
            raise self._refused(error) from error
        if shape != (2, len(self.data.classes)):
            raise self._refused(f"for 2 images it gives {shape}, not {(2, len(self.data.classes))}")

    def _refused(self, reason: Exception | str) -> UserError:
        message = " ".join(str(reason).split())[:300]
        return UserError(f"params.yaml: network '{self.params.network.name}': timm refuses it ({message})")

    def train(self, zoo: Zoo, seed: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Train one network from scratch and yield (step, state dict) at each save; `seed` sets weights and data order.

        Raises UserError if the loss stops being finite.
        """
        torch.manual_seed(derive("zoo", "weights", seed))
        on = device()
        network = self.build().to(on).train()
        order = generator("zoo", "order", seed)
        train = self.data.train
        optimizer = torch.optim.AdamW(network.parameters(), zoo.learning_rate, weight_decay=zoo.weight_decay)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            zoo.learning_rate,
            total_steps=zoo.steps,
            final_div_factor=zoo.learning_rate / 25 / zoo.final_learning_rate,
        )
        last = zoo.steps + zoo.saves * zoo.save_every
        batches = _batches(len(train.labels), zoo.batch, order)
        for step in range(1, last + 1):
            batch = next(batches)
            images = _shift(train.images[batch], zoo.shift, order).to(on)
            logits = network(self.data.inputs(images, self.params.resolution))
            loss = functional.cross_entropy(logits, train.labels[batch].to(on), label_smoothing=zoo.label_smoothing)
            if not torch.isfinite(loss):
                raise UserError(f"zoo: seed {seed} diverged at step {step}; lower zoo.learning_rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step < zoo.steps:
                cycle.step()
            elif (step - zoo.steps) % zoo.save_every == 0 and step > zoo.steps:
                yield step, {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}

    @torch.inference_mode()
    def score(self, state_dict: dict[str, Tensor], split: str = "test") -> float:
        """Top-1 accuracy in percent of a network with these weights on `split`; UserError if they do not fit it."""
        # A score between two saves must not move the generator that the training draws from.
        with torch.random.fork_rng(devices=[]):
            network = self.build()
        try:
            network.load_state_dict(state_dict)
        except RuntimeError as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(f"the weights do not fit network '{self.params.network.name}': {message}") from error
        on = device()
        network.to(on).eval()
        data, hits = self.data.split(split), 0
        for start in range(0, len(data.labels), SCORE_BATCH):
            images = data.images[start : start + SCORE_BATCH].to(on)
            found = network(self.data.inputs(images, self.params.resolution)).argmax(1).cpu()
            hits += int((found == data.labels[start : start + SCORE_BATCH]).sum())
        return 100 * hits / len(data.labels)


def _batches(count: int, batch: int, order: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices; each epoch is a new permutation, a last incomplete batch is dropped."""
    batch = min(batch, count)
    while True:
        permutation = torch.randperm(count, generator=order)
        for start in range(0, count - batch + 1, batch):
            yield permutation[start : start + batch]


def _shift(images: Tensor, pixels: int, order: torch.Generator) -> Tensor:
    """Move each image [n, C, H, W] by up to `pixels` in both directions; what comes in at the border is black, 0."""
    if pixels == 0:
        return images
    n, _, height, width = images.shape
    padded = functional.pad(images, (pixels,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = torch.randint(2 * pixels + 1, (2, n), generator=order)
    return windows[torch.arange(n), :, rows, columns]
