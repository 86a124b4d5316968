"""What a task code means: which images a network for the task sees, and which answers are right.

n images [n, C, H, W] of 0 to `white`, as the data set stores them, and their classes [n].
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from rpg.utils import task_codes

# In the training of a base network, a batch has so many random tasks.
TASKS_PER_BATCH = 8
BITS = {"0": 0, "1": 1}
# The label of an image that a loss leaves out, as torch's cross-entropy has it.
IGNORED = -100


class Meaning(ABC):
    """The meaning of the bits of task codes."""

    # Whether a network for one task sees other images than a network for another.
    own_images: ClassVar[bool]

    @abstractmethod
    def labels(self, classes_n: Tensor, code: str) -> Tensor:
        """Return [n] int64, 0 or 1: the right answers to images of these classes; IGNORED for a dash in the code."""

    @abstractmethod
    def images(self, images: Tensor, code: str, white: int) -> Tensor:
        """Return the images [n, C, H, W] that the network sees."""

    @abstractmethod
    def base_outputs(self, classes: int) -> int:
        """Return the number of outputs of a base network, which is trained for all tasks at once."""

    @abstractmethod
    def base_batch(self, images: Tensor, classes_n: Tensor, white: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images and the right answers [n] of a base network's training step."""

    @abstractmethod
    def from_base(self, answers_n: Tensor, code: str) -> Tensor:
        """Convert a base network's answers [n] to answers in the task of `code`."""


class ClassBits(Meaning):
    """Bit k says whether class k counts as yes. The base network tells all classes apart."""

    own_images = False

    def labels(self, classes_n: Tensor, code: str) -> Tensor:
        return torch.tensor([BITS.get(bit, IGNORED) for bit in code], device=classes_n.device)[classes_n]

    def images(self, images: Tensor, code: str, white: int) -> Tensor:
        return images

    def base_outputs(self, classes: int) -> int:
        return classes

    def base_batch(self, images: Tensor, classes_n: Tensor, white: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return images, classes_n

    def from_base(self, answers_n: Tensor, code: str) -> Tensor:
        return self.labels(answers_n, code)


class TransformationBits(Meaning):
    """Bit k says whether the network sees its images through transformation k; it answers whether the class is odd.

    The transformations follow one after the other. The base network is trained on images of random tasks, and is not
    told their codes.
    """

    own_images = True
    NAMES: ClassVar = (
        "mirror",
        "upside down",
        "transpose",
        "negative",
        "shift right",
        "shift down",
        "swap columns",
        "swap rows",
        "negative squares",
        "negative half",
    )

    def labels(self, classes_n: Tensor, code: str) -> Tensor:
        return classes_n % 2

    def images(self, images: Tensor, code: str, white: int) -> Tensor:
        height, width = images.shape[-2:]
        squares = (torch.arange(height)[:, None] // 2 + torch.arange(width) // 2) % 2 == 1
        half = (torch.arange(width) < width // 2).expand(height, -1)
        steps = (
            lambda x: x.flip(-1),
            lambda x: x.flip(-2),
            lambda x: x.transpose(-1, -2),
            lambda x: white - x,
            lambda x: x.roll(width // 2, -1),
            lambda x: x.roll(height // 2, -2),
            lambda x: x[..., torch.arange(width) ^ 1],
            lambda x: x[..., torch.arange(height) ^ 1, :],
            lambda x: torch.where(squares.to(x.device), white - x, x),
            lambda x: torch.where(half.to(x.device), white - x, x),
        )
        for bit, step in zip(code, steps, strict=True):
            if bit == "1":
                images = step(images)
        return images

    def base_outputs(self, classes: int) -> int:
        return 2

    def base_batch(self, images: Tensor, classes_n: Tensor, white: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = torch.randint(1, 2**task_codes.CLASSES - 1, (TASKS_PER_BATCH,), generator=draw).tolist()
        parts = zip(images.chunk(TASKS_PER_BATCH), numbers, strict=False)
        seen = [self.images(part, task_codes.of_number(number), white) for part, number in parts]
        return torch.cat(seen), classes_n % 2

    def from_base(self, answers_n: Tensor, code: str) -> Tensor:
        return answers_n


MEANINGS = {"classes": ClassBits(), "transformations": TransformationBits()}
