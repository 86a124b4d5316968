"""Features of images for a prompt: what the zoo's base network, which stays frozen, computes from them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.data.images import standardized
from rpg.tasks.stack import StateDict
from rpg.utils.device import device

if TYPE_CHECKING:
    from rpg.tasks.classification.task import Classification

BATCH = 1000
# Names of the tensors in a packed generator.
BASE, PIXELS = "base.", "pixels."


class ImageFeatures:
    """Turns images into F features each: the base network's outputs before its head, and its classes' probabilities.

    `pixels` holds the `mean` and `std` [1, C, 1, 1] of the training images, the `shape` (C, H, W) of an image, and
    `white`, the largest value of a pixel.
    """

    def __init__(self, task: "Classification", state_dict: StateDict, pixels: StateDict) -> None:
        self.task, self.state_dict, self.pixels = task, state_dict, pixels
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            self.network: nn.Module = task.build_base().to(device()).eval()
        self.network.load_state_dict(state_dict)

    @classmethod
    def of_tensors(cls, task: "Classification", tensors: StateDict) -> "ImageFeatures":
        """Return the features that `tensors` of another one hold; needs no data."""
        base, pixels = (
            {name.removeprefix(kind): of for name, of in tensors.items() if name.startswith(kind)}
            for kind in (BASE, PIXELS)
        )
        return cls(task, base, pixels)

    def tensors(self) -> StateDict:
        """Return all that `of_tensors` needs."""
        return {f"{BASE}{name}": of for name, of in self.state_dict.items()} | {
            f"{PIXELS}{name}": of for name, of in self.pixels.items()
        }

    @property
    def white(self) -> int:
        """The largest value of the data set's pixels."""
        return int(self.pixels["white"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the data set's images."""
        channels, height, width = self.pixels["shape"].tolist()
        return channels, height, width

    @property
    def classes(self) -> int:
        """K, the number of the network's classes."""
        return self.task.base_outputs

    def inputs(self, images: Tensor) -> Tensor:
        """Return the network's inputs for images [n, C, H, W] of 0 to `white`, of any height and width."""
        resolution = self.task.params.resolution
        return standardized(images, self.pixels["mean"], self.pixels["std"], resolution)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features [n, F], on the CPU, of images [n, C, H, W] of 0 to `white`."""
        return torch.cat([self._of(self.inputs(part.to(device()))).cpu() for part in images.split(BATCH)])

    def _of(self, inputs: Tensor) -> Tensor:
        known = self.network.forward_features(inputs)  # type: ignore[operator]
        before = self.network.forward_head(known, pre_logits=True)  # type: ignore[operator]
        outputs = self.network.forward_head(known)  # type: ignore[operator]
        return torch.cat([before, functional.softmax(outputs, 1)], 1)
