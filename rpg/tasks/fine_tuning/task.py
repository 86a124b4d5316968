"""Image classification with pretrained timm networks, scored by top-1 accuracy, as for ImageNet-1K.

Pictures are read one by one and go through timm's transforms. timm's metadata of the network's weights sets resolution,
crop, interpolation and normalization. Training and scoring may have different resolutions.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from rpg.data.pictures import Pictures, PictureSets
from rpg.tasks.base import Judgement, Save, Task
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.fine_tuning.config import FineTuningTask, FineTuningZoo, PretrainedBase
from rpg.tasks.fine_tuning.pictures import load_pictures
from rpg.tasks.stack import StateDict
from rpg.utils.device import bfloat16, device
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import read_tensors
from rpg.utils.hub import commit, timm_repository
from rpg.utils.progress import LastLoss, progress
from rpg.utils.rng import derive, generator

SCORE_BATCH = 128
# Scores of a network differ by so many percent between versions of the libraries that read and resize images.
TOP1_TOLERANCE = 0.3

Transform = Callable[[Image.Image], Tensor]


class FineTuning(Task):
    """Fine-tunes and scores the classifiers of one experiment."""

    metrics = ("top1",)

    def __init__(self, params: FineTuningTask, data_root: str | None) -> None:
        self.params = params
        self.data_root = data_root

    @cached_property
    def data(self) -> PictureSets:
        """The data set; UserError if its folder is missing or has an unknown layout."""
        return load_pictures(self.params.data, self.data_root, self.params.validation)

    def build(self, revision: str | None = None) -> nn.Module:
        """Build a new network with random weights from torch's global generator, or with timm's weights of a commit.

        Raises UserError if timm refuses the arguments or the weights are not available.
        """
        import timm

        name, pinned = self.params.network.name, dict[str, Any]()
        if revision:
            pinned = {"pretrained_cfg_overlay": {"hf_hub_id": f"{timm_repository(name)}@{revision}"}}
        try:
            return timm.create_model(name, pretrained=bool(revision), **pinned, **self.params.network.arguments)
        except Exception as error:
            # The hub and a hundred network classes each have their own exception types.
            reason = " ".join(str(error).split())[:300]
            if revision:
                remedy = "download them with internet access, or set base.weights to a file"
                raise UserError(f"params.yaml: weights of '{name}' can't be loaded ({reason}); {remedy}") from error
            raise UserError(f"params.yaml: network '{name}': timm refuses it ({reason})") from error

    @cached_property
    def network(self) -> nn.Module:
        # Building the network must not advance the generator that a training draws from.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self.build().to(device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        with torch.device("meta"):
            return self.build().state_dict()

    def transform(self, training: bool) -> Transform:
        """Return timm's transform for the network's weights, from a picture to a tensor [3, H, W]."""
        from timm.data import create_transform, resolve_data_config

        # Training uses the weights' training resolution, scoring the test resolution of timm's published scores.
        config = resolve_data_config(self.params.resolution, model=self.network, use_test_size=not training)
        return create_transform(**config, is_training=training)

    def check(self) -> None:
        try:
            with torch.inference_mode():
                outputs = tuple(self.network(self.example).shape)
        except (RuntimeError, TypeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"params.yaml: network '{self.params.network.name}': {reason}") from error
        if outputs != (2, len(self.data.classes)):
            raise UserError(
                f"params.yaml: network '{self.params.network.name}': for 2 images it gives {outputs}, but data set"
                f" '{self.params.data}' has {len(self.data.classes)} classes; set num_classes in its arguments"
            )

    @property
    def example(self) -> Tensor:
        transform = self.transform(training=False)
        return torch.stack([transform(self.data.validation[index]) for index in range(2)]).to(device())

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        """Return the pretrained weights; a head with another number of classes gets random weights of the seed.

        Raises UserError if the weights are not available or do not reach their published accuracy.
        """
        assert isinstance(base, PretrainedBase)
        torch.manual_seed(derive("base", "weights", seed))
        network = self.build(self._commit(base) if base.weights == "timm" else None)
        if base.weights != "timm":
            start = network.state_dict()
            given = read_tensors(Path(base.weights))
            heads = {f"{name}.{kind}" for name in _heads(network) for kind in ("weight", "bias")}
            fitting = {
                name: tensor
                for name, tensor in given.items()
                if name not in heads or name not in start or tensor.shape == start[name].shape
            }
            try:
                network.load_state_dict({**{name: start[name] for name in heads & start.keys()}, **fitting})
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"{base.weights}: not weights of '{self.params.network.name}' ({reason})") from error
        state_dict = _copy(network)
        if base.top1 is not None:
            accuracy = self.score(state_dict)
            if abs(accuracy - base.top1) > TOP1_TOLERANCE:
                raise UserError(
                    f"params.yaml: base.top1: the weights reach {accuracy:.2f} %, not {base.top1:.2f} %;"
                    " check data set and weights"
                )
        return state_dict

    def _commit(self, base: PretrainedBase) -> str:
        name = self.params.network.name
        repository = timm_repository(name)
        if not repository:
            raise UserError(f"params.yaml: weights of '{name}': not on the hub; set base.weights to a file")
        return commit("base.revision", repository, base.revision)

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        assert isinstance(zoo, FineTuningZoo)
        (run,), (base,) = runs, bases
        assert base is not None
        torch.manual_seed(derive("zoo", "weights", run.seed))
        network = self.build().to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.load_state_dict(base)
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), zoo.learning_rate, weight_decay=zoo.weight_decay)
        steps = zoo.steps + zoo.saves * zoo.save_every
        batches = self._training_batches(zoo.batch, steps, generator("zoo", "order", run.seed))
        label, last = f"zoo: seed {run.seed}", LastLoss()
        for step, (images, labels) in enumerate(progress(batches, label, total=steps, note=last), 1):
            with bfloat16(zoo.precision == "bfloat16", device()):
                loss = functional.cross_entropy(network(images), labels)
            last.of(loss)
            if not torch.isfinite(loss):
                raise Diverged(f"{label} diverged at step {step}; lower its learning_rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step > zoo.steps and (step - zoo.steps) % zoo.save_every == 0:
                save(step, [_copy(network)])

    def _training_batches(self, batch: int, steps: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of the train split in random order, with a separate random transform of each picture."""
        pictures = self.data.train

        def drawn() -> Iterator[list[tuple[int, int]]]:
            places = pictures.order(order)
            for _ in range(steps):
                while len(places) < batch:
                    places = torch.cat([places, pictures.order(order)])
                keys = torch.randint(2**31, (batch,), generator=order)
                yield list(zip(places[:batch].tolist(), keys.tolist(), strict=True))
                places = places[batch:]

        return self._read(_Transformed(pictures, self.transform(training=True)), drawn())

    def _read(self, dataset: Dataset, batches: Iterable[list[Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels of `batches` of keys of `dataset`, on the device.

        Raises UserError if an image can't be read.
        """
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=self.params.workers, collate_fn=_collate)
        for read in loader:
            if isinstance(read, UserError):
                raise read
            images, labels = read
            yield images.to(device(), memory_format=torch.channels_last), labels.to(device())

    def targets(self, split: str, code: str | None = None) -> Tensor:
        return self.data.split(split).labels

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        try:
            self.network.load_state_dict(state_dict)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the weights do not fit network '{self.params.network.name}': {reason}") from error
        pictures = self.data.split(split)
        batches = [part.tolist() for part in torch.arange(len(pictures)).split(SCORE_BATCH)]
        answers_of_batches = []
        with torch.inference_mode():
            for images, _ in self._read(_Transformed(pictures, self.transform(training=False)), batches):
                answers_of_batches.append(self.network(images).argmax(1).cpu())
        answers = torch.cat(answers_of_batches)
        right = int((answers == pictures.labels).sum())
        return Judgement({self.metric: 100 * right / len(answers)}, answers)


class _Transformed(Dataset):
    """Pictures as tensors [3, H, W] with labels, by index, or by (index, seed of the random transforms)."""

    def __init__(self, pictures: Pictures, transform: Transform) -> None:
        self.pictures, self.transform = pictures, transform

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor] | UserError:
        index, seed = key if isinstance(key, tuple) else (key, None)
        try:
            picture = self.pictures[index]
        except UserError as error:
            # A DataLoader would put the reading process's traceback into the message of a raised error.
            return error
        if seed is None:
            return self.transform(picture), self.pictures.labels[index]
        # timm's transforms draw from both generators; seeding them makes the image independent of the reading process.
        states = random.getstate(), torch.get_rng_state()
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        image = self.transform(picture)
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        return image, self.pictures.labels[index]


def _collate(read: list[tuple[Tensor, Tensor] | UserError]) -> tuple[Tensor, Tensor] | UserError:
    images, labels = [], []
    for one in read:
        if isinstance(one, UserError):
            return one
        images.append(one[0])
        labels.append(one[1])
    return torch.stack(images), torch.stack(labels)


def _heads(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that output a score for each class."""
    names: str | tuple[str, ...] = network.pretrained_cfg["classifier"]  # type: ignore[index,assignment]
    return (names,) if isinstance(names, str) else tuple(names)


def _copy(network: nn.Module) -> StateDict:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
