"""Image classification with timm networks, scored by top-1 accuracy: all classes, or those of a task code.

With a task code, the label of an image is the code's bit of its class.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.data import load_data
from rpg.data.images import Images
from rpg.tasks.base import DifferentiableTask, Judgement, Save
from rpg.tasks.classification.config import ClassificationBase, ClassificationTask, ClassificationZoo, TaskCodes
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict, logits, mismatch, stack, unstack
from rpg.utils.device import device
from rpg.utils.errors import Diverged, UserError
from rpg.utils.progress import progress
from rpg.utils.rng import derive, generator

# Images that one network is shown at once, or that several are, together.
SCORE_BATCH = 1000
RECOUNT, RECOUNT_BATCH = 2000, 250


class Classification(DifferentiableTask):
    """Builds, trains and scores the classifiers of one experiment."""

    metrics = ("top1",)
    judge_batch = 16

    def __init__(self, params: ClassificationTask | TaskCodes, data_root: str | None) -> None:
        self.params = params
        self.data_root = data_root
        self._inputs: dict[str, Tensor] = {}

    @cached_property
    def data(self) -> Images:
        """The data set, read when first needed; UserError if its folder is missing."""
        return load_data(self.params.data, self.data_root)

    @property
    def outputs(self) -> int:
        """K, what a source network gives one score each for."""
        return 2 if self.params.has_codes else len(self.data.classes)

    def build(self, **arguments: int) -> nn.Module:
        """A new network with weights from torch's global generator; UserError if timm refuses its arguments.

        `arguments` go before those in params.yaml.
        """
        import timm

        import rpg.tasks.classification.networks  # noqa: F401

        network = self.params.network
        try:
            return timm.create_model(network.name, pretrained=False, **{**network.arguments, **arguments})
        except Exception as error:
            # The arguments go to any of a hundred network classes, which fail each in its own way.
            raise self._refused(error) from error

    @cached_property
    def network(self) -> nn.Module:
        """A network in evaluation mode to put weights into; its own mean nothing."""
        # Building one must not move the generator that a training draws from. It is first asked for while scoring, and
        # trained through later.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            # Pooling is several times faster in this memory format.
            return self.build().to(device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        with torch.device("meta"):
            return self.build().state_dict()

    def check(self) -> None:
        """UserError if the network does not take the images of the data set or does not give one score per class."""
        inputs = self.data.inputs(self.data.train.images[:2].to(device()), self.params.resolution)
        try:
            with torch.inference_mode():
                shape = tuple(self.network(inputs).shape)
        except Exception as error:
            raise self._refused(error) from error
        if shape != (2, self.outputs):
            raise self._refused(f"for 2 images it gives {shape}, not {(2, self.outputs)}")

    def _refused(self, reason: Exception | str) -> UserError:
        message = " ".join(str(reason).split())[:300]
        return UserError(f"params.yaml: network '{self.params.network.name}': timm refuses it ({message})")

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        """Train one network to tell all classes of the data set apart; Diverged if the loss stops being finite."""
        assert isinstance(base, ClassificationBase)
        torch.manual_seed(derive("base", "weights", seed))
        network = self.build(num_classes=len(self.data.classes)).to(device()).train()
        weights = stack([network.state_dict()])
        optimizer = _optimizer(network, weights, base)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, base.learning_rate, total_steps=base.steps)
        order = generator("base", "order", seed)
        batches = _batches(len(self.data.train.labels), base.batch, order)
        for step in progress(range(1, base.steps + 1), "base", total=base.steps):
            batch = next(batches)
            images = _shift(self.data.train.images[batch], base.shift, order)
            losses_E = self._losses(network, weights, images, self.data.train.labels[batch].unsqueeze(0), [None])
            self._step(optimizer, losses_E, f"base: seed {seed}", step)
            if step < base.steps:
                cycle.step()
        return unstack(weights)[0]

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        """Train the networks of `runs` at once.

        Each one's seed sets its weights and data order. With a base its weights start as the base's, except for those
        that have another shape there, the head. Raises Diverged if a loss stops being finite.
        """
        assert isinstance(zoo, ClassificationZoo)
        codes = [run.code for run in runs]
        starts, order = {}, {run.seed: generator("zoo", "order", run.seed) for run in runs}
        for run, base in zip(runs, bases, strict=True):
            if run.seed not in starts:
                torch.manual_seed(derive("zoo", "weights", run.seed))
                network = self.build().to(device()).train()
                own = network.state_dict()
                shared = {name for name in own if base and base[name].shape == own[name].shape}
                starts[run.seed] = own | ({name: base[name].to(device()) for name in shared} if base else {})
        weights = stack([starts[run.seed] for run in runs])
        optimizer = _optimizer(network, weights, zoo)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            zoo.learning_rate,
            total_steps=zoo.steps,
            final_div_factor=zoo.learning_rate / 25 / zoo.final_learning_rate,
        )
        batches = {seed: _batches(len(self.data.train.labels), zoo.batch, order[seed]) for seed in order}
        of_run = torch.tensor([list(order).index(run.seed) for run in runs])
        for step in range(1, zoo.steps + zoo.saves * zoo.save_every + 1):
            for name, _ in network.named_parameters():
                weights[name].requires_grad_(step > zoo.head_steps or name not in shared)
            # One batch for the networks of one seed.
            batch = torch.stack([next(batches[seed]) for seed in order])
            images = torch.stack(
                [
                    _shift(self.data.train.images[one], zoo.shift, order[seed])
                    for one, seed in zip(batch, order, strict=True)
                ]
            )
            losses_E = self._losses(
                network,
                weights,
                images[of_run] if len(order) > 1 else images[0],
                self.data.train.labels[batch][of_run],
                codes,
                zoo.label_smoothing,
                zoo.focal_gamma,
            )
            self._step(optimizer, losses_E, f"zoo: seed {', '.join(map(str, order))}", step)
            if step < zoo.steps:
                cycle.step()
            elif (step - zoo.steps) % zoo.save_every == 0 and step > zoo.steps:
                save(step, unstack(weights))

    def losses(
        self,
        weights: StateDict,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
        recounted: bool = False,
    ) -> Tensor:
        """[E] the loss of networks `weights` [E, ...] in their tasks, on the same `images` random training images.

        Differentiable in the parameters. What BatchNorm has counted enters as it is, or, if `recounted`, is replaced
        by the statistics of these images.
        """
        learned = {name for name, _ in self.network.named_parameters()}
        weights = {name: tensor if name in learned else tensor.detach().clone() for name, tensor in weights.items()}
        batch = torch.randint(len(self.data.train.labels), (images,), generator=draw)
        try:
            labels_En = self.data.train.labels[batch].expand(len(codes), -1)
            return self._losses(self.network.train(recounted), weights, self.data.train.images[batch], labels_En, codes)
        finally:
            self.network.eval()

    @torch.no_grad()
    def recount(self, state_dicts: Sequence[StateDict]) -> list[StateDict]:
        """The same weights, with what BatchNorm counts taken anew from (at most RECOUNT) training images.

        As torch's `update_bn` has it, the mean over batches, but of several networks at once.
        """
        weights = {name: tensor.to(device()) for name, tensor in stack([dict(one) for one in state_dicts]).items()}
        counted = []
        for name, module in self._counting.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                weights[f"{name}.num_batches_tracked"].zero_()
                counted += [f"{name}.running_mean", f"{name}.running_var"]
        # In parts of about one length, since each counts alike.
        parts = self._recount_inputs.chunk(RECOUNT // RECOUNT_BATCH)
        totals = {name: torch.zeros_like(weights[name]) for name in counted}
        for part in parts:
            logits(self._counting, weights, part)
            for name, total in totals.items():
                total += weights[name]
        return unstack({**weights, **{name: total / len(parts) for name, total in totals.items()}})

    @cached_property
    def _counting(self) -> nn.Module:
        """The network in training mode, in which BatchNorm's statistics become those of the last batch alone."""
        # One for all calls: what `logits` makes of a network to compute several at once, it keeps by the network.
        network = copy.deepcopy(self.network).train()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        return network

    @cached_property
    def _recount_inputs(self) -> Tensor:
        return self.data.inputs(self.data.train.images[:RECOUNT], self.params.resolution).to(device())

    def _losses(
        self,
        network: nn.Module,
        weights: StateDict,
        images: Tensor,
        labels_En: Tensor,
        codes: Sequence[str | None],
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
    ) -> Tensor:
        """[E] mean losses on training images: (1 - p)^γ times cross-entropy (Lin et al. 2017).

        `images`: the same [n, C, H, W] for all networks, or [E, n, C, H, W]; `labels_En` are those of the data set.
        """
        labels_En = self.labels(labels_En.to(device()), codes)
        inputs = self.data.inputs(images.to(device()).flatten(0, -4), self.params.resolution)
        inputs = inputs.unflatten(0, images.shape[:-3])
        logits_EKn = logits(network, weights, inputs).transpose(1, 2)
        losses_En = functional.cross_entropy(logits_EKn, labels_En, label_smoothing=label_smoothing, reduction="none")
        if focal_gamma:
            p_En = torch.exp(-functional.cross_entropy(logits_EKn, labels_En, reduction="none"))
            losses_En = losses_En * (1 - p_En) ** focal_gamma
        return losses_En.mean(1)

    def _step(self, optimizer: torch.optim.Optimizer, losses_E: Tensor, what: str, step: int) -> None:
        if not torch.isfinite(losses_E).all():
            raise Diverged(f"{what} diverged at step {step}; lower its learning_rate")
        optimizer.zero_grad()
        losses_E.sum().backward()
        optimizer.step()

    def labels(self, labels_En: Tensor, codes: Sequence[str | None]) -> Tensor:
        """[E, n] int64: the labels that networks of these task codes, or of none, shall find, of those of the data."""
        if codes[0] is None:
            return labels_En
        bits_EC = torch.tensor([[int(bit) for bit in code or ""] for code in codes])
        return bits_EC.to(labels_En.device).gather(1, labels_En)

    @torch.inference_mode()
    def answers(self, state_dicts: Sequence[StateDict], inputs: Tensor) -> Tensor:
        """[E, n] int64: what networks with these weights take their `inputs` [n, C, H, W] for, on the CPU.

        UserError if some weights do not fit the network.
        """
        own = self.network.state_dict()
        for state_dict in state_dicts:
            if why := mismatch(state_dict, own):
                raise UserError(f"the weights do not fit network '{self.params.network.name}': {why}")
        weights = {name: tensor.to(device()) for name, tensor in stack([dict(one) for one in state_dicts]).items()}
        parts = inputs.split(max(1, SCORE_BATCH // len(state_dicts)))
        return torch.cat([logits(self.network, weights, part).argmax(2).cpu() for part in parts], 1)

    def inputs(self, split: str) -> Tensor:
        """[n, C, H, W] float32: all images of a split as the network takes them, made once and kept."""
        if split not in self._inputs:
            parts = self.data.split(split).images.split(SCORE_BATCH)
            found = [self.data.inputs(part, self.params.resolution) for part in parts]
            self._inputs[split] = torch.cat(found).to(device())
        return self._inputs[split]

    @property
    def example(self) -> Tensor:
        return self.inputs("validation")[:2]

    def targets(self, split: str, code: str | None = None) -> Tensor:
        return self.labels(self.data.split(split).labels.unsqueeze(0), [code])[0]

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        return self.judge_all([state_dict], split, [code])[0]

    def judge_all(
        self,
        state_dicts: Sequence[StateDict],
        split: str,
        codes: Sequence[str | None],
        kept: Path | None = None,
        main_only: bool = False,
    ) -> list[Judgement]:
        answers_En = self.answers(state_dicts, self.inputs(split))
        labels_En = self.labels(self.data.split(split).labels.expand(len(codes), -1), codes)
        right = (answers_En == labels_En).sum(1).tolist()
        return [
            Judgement({self.metric: 100 * count / len(answers)}, answers)
            for count, answers in zip(right, answers_En, strict=True)
        ]

    def majority(self, code: str, split: str = "test") -> float:
        """Accuracy in percent on `split` of always giving the answer that is more frequent in training."""
        answer = int(self.targets("train", code).double().mean() > 0.5)
        return 100 * float((self.targets(split, code) == answer).double().mean())


def _optimizer(
    network: nn.Module, weights: StateDict, recipe: ClassificationBase | ClassificationZoo
) -> torch.optim.Optimizer:
    """AdamW, which goes number by number: networks that are stacked learn as they would alone."""
    learned = [weights[name].requires_grad_() for name, _ in network.named_parameters()]
    return torch.optim.AdamW(learned, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


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
