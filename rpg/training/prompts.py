"""Draw prompts, from which RPG learns to read them: support sets of training images, or training questions."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Experiment, Sample
from rpg.config.model import ImagesCondition, TextCondition
from rpg.model.rpg import RPG
from rpg.model.set_encoder import SetEncoder, support_values
from rpg.tasks.base import PromptedTask, TextTask
from rpg.tasks.loading import check_features, load_prompted, load_task, text_task
from rpg.tasks.stack import StateDict
from rpg.zoo.manifest import read_base

# The most images of a class in a support set, and the most questions in a prompt.
MOST, MOST_QUESTIONS = 50, 128
# The share of the support sets whose images show the classes of a side in turn; the others are drawn at random.
EVEN = 0.8


def draw_support(
    classes_n: Tensor, code: str, count: int, evenly: bool, draw: torch.Generator
) -> tuple[list[int], list[int]]:
    """Return the indices of `count` images for each side of the task of `code`: no, then yes.

    `classes_n` [n] are the images' classes. With `evenly`, the images of a side show its classes in turn, in a random
    order. No image is drawn twice before all have been drawn. A class whose bit is neither 0 nor 1 has no images.
    """
    sides: list[list[int]] = []
    for side in "01":
        members = [index for index, bit in enumerate(code) if bit == side]
        pools = [(classes_n == member).nonzero().flatten() for member in members]
        pools = [pool[torch.randperm(len(pool), generator=draw)] for pool in pools if len(pool)]
        if evenly:
            # The order of the classes differs from turn to turn.
            turns = max((math.ceil(count / len(pools)) if pools else 0), 1)
            order = [place for _ in range(turns) for place in torch.randperm(len(pools), generator=draw).tolist()]
            taken = [0] * len(pools)
            chosen = []
            for place in order[:count]:
                chosen.append(int(pools[place][taken[place] % len(pools[place])]))
                taken[place] += 1
        else:
            together = torch.cat(pools)
            together = together[torch.randperm(len(together), generator=draw)]
            chosen = [int(together[k % len(together)]) for k in range(count)]
        sides.append(chosen)
    return sides[0], sides[1]


class Prompts(ABC):
    """The features of training examples [n, F], and prompts of them for the condition `name`."""

    name: str
    features_nF: Tensor

    def fit(self, model: RPG) -> None:
        """Set the statistics of the features in a model that starts to learn from them."""
        for _, kind in model.recurrent.conditions.named():
            if isinstance(kind, SetEncoder):
                kind.standardize(self.features_nF)

    @abstractmethod
    def drawn(self, codes: Sequence[str], absent: float, draw: torch.Generator) -> tuple[Sequence[str | None], Tensor]:
        """Return the tasks and the condition's values [B, S, K, F + 1] for prompts of a random size.

        For the share `absent` of the calls, random classes are left out of prompts and tasks.
        """

    @abstractmethod
    def sampled(self, codes: Sequence[str], params: Sample, draw: torch.Generator) -> Tensor:
        """Return values [B, S, K, F + 1] for a prompt of each task, of the size that `params` names."""


class ImagePrompts(Prompts):
    """Support sets of training images."""

    name = "images"

    def __init__(self, task: PromptedTask, base: StateDict, condition: ImagesCondition) -> None:
        self.images, self.classes_n = task.labeled_images("train")
        self.present = {*self.classes_n.tolist()}
        self.features_nF = task.image_features(base)(self.images)
        check_features(self.name, self.features_nF.shape[1], condition.features)

    def drawn(self, codes: Sequence[str], absent: float, draw: torch.Generator) -> tuple[Sequence[str | None], Tensor]:
        if absent and float(torch.rand((), generator=draw)) < absent:
            codes = [without_classes(code, self.present, draw) for code in codes]
        return codes, self.draw(codes, draw)

    def sampled(self, codes: Sequence[str], params: Sample, draw: torch.Generator) -> Tensor:
        # The validation of params.yaml has refused an experiment without the number.
        assert params.images
        # The classes of a side take turns.
        return self.values(codes, params.images, True, draw)

    def values(self, codes: Sequence[str], count: int, evenly: bool, draw: torch.Generator) -> Tensor:
        """Return the condition's values [B, S, K, F + 1] for a support set of `count` images a side of each task."""
        sets = [draw_support(self.classes_n, code, count, evenly, draw) for code in codes]
        return support_values([[self.features_nF[side] for side in sides] for sides in sets])

    def draw(self, codes: Sequence[str], draw: torch.Generator) -> Tensor:
        """Return values [B, S, K, F + 1] for support sets of a random size, from 1 to MOST.

        The logarithm of the size is the larger of two uniform numbers: few images often do not tell the task. A class
        with a dash in the code has no images.
        """
        size = math.exp(math.log(MOST) * float(torch.rand(2, generator=draw).max()))
        evenly = float(torch.rand((), generator=draw)) < EVEN
        return self.values(codes, round(size), evenly, draw)


def without_classes(code: str, present: Collection[int], draw: torch.Generator) -> str:
    """Return a code with a dash for random classes; some of either side that are `present` in the data stay."""
    bits = [bit if index in present else "-" for index, bit in enumerate(code)]
    for side in "01":
        members = [index for index, bit in enumerate(bits) if bit == side]
        order = torch.randperm(len(members), generator=draw).tolist()
        kept = int(torch.randint(1, len(members) + 1, (), generator=draw))
        for place in order[kept:]:
            bits[members[place]] = "-"
    return "".join(bits)


class TextPrompts(Prompts):
    """Prompts of training questions."""

    name = "text"

    def __init__(self, task: TextTask, seen: Sequence[str], held_out: Sequence[str], condition: TextCondition) -> None:
        """Compute the features of the tasks' training questions."""
        codes = [*seen, *held_out]
        self.by_code = {code: task.text_features(condition, task.prompt_texts("train", code)) for code in codes}
        # RPG never learns from the questions of held-out tasks.
        self.features_nF = torch.cat([self.by_code[code] for code in seen])
        check_features(self.name, self.features_nF.shape[1], condition.features)

    def values(self, codes: Sequence[str], count: int, draw: torch.Generator) -> Tensor:
        """Return values [B, 1, K, F + 1] for `count` random questions of each task, or all of a task with fewer."""
        sets = []
        for code in codes:
            features = self.by_code[code]
            sets.append([features[torch.randperm(len(features), generator=draw)[:count]]])
        return support_values(sets)

    def drawn(self, codes: Sequence[str], absent: float, draw: torch.Generator) -> tuple[Sequence[str | None], Tensor]:
        # The logarithm of the size is uniform.
        size = math.exp(math.log(MOST_QUESTIONS) * float(torch.rand((), generator=draw)))
        return codes, self.values(codes, round(size), draw)

    def sampled(self, codes: Sequence[str], params: Sample, draw: torch.Generator) -> Tensor:
        assert params.questions
        return self.values(codes, params.questions, draw)


def prompts_of(experiment: Experiment, base: Path, data_root: str | None) -> Prompts | None:
    """Return the prompts of an experiment's training examples; None for an RPG that takes none.

    `base` is the folder of the base network, whose features of images are used.
    """
    if text := experiment.model.text:
        # Of a held-out task, RPG sees the questions of a request alone.
        seen, held_out = experiment.codes(held_out=False), experiment.codes(held_out=True)
        return TextPrompts(text_task(load_task(experiment.task, data_root)), seen, held_out, text)
    if images := experiment.images:
        return ImagePrompts(load_prompted(experiment.task, data_root), prompts_base(experiment, base), images)
    return None


def prompts_base(experiment: Experiment, folder: Path) -> StateDict:
    """Return the weights of the base network in `folder`, whose features of images RPG sees."""
    weights = read_base(experiment, folder, experiment.zoo.seeds[0])
    # The validation of params.yaml has refused an experiment without a base network.
    assert weights
    return weights
