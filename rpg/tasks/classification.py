"""Image classification with timm networks, scored by top-1 accuracy: all classes, or those of a task code.

With a task code, the label of an image is the code's bit of its class.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from rpg.data import load_data
from rpg.data.images import Images
from rpg.device import device
from rpg.errors import Diverged, UserError
from rpg.params import AnyBase, AnyZoo, Base, ClassificationTask, Run, TaskCodes, Zoo
from rpg.progress import progress
from rpg.seeds import derive, generator
from rpg.tasks.stack import StateDict, logits, stack, unstack
from rpg.tasks.task import Judgement, Save, Task

SCORE_BATCH = 250
RECOUNT = 2000


class Classification(Task):
    """Builds, trains and scores the classifiers of one experiment."""

    metrics = ("top1",)

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
        return 2 if isinstance(self.params, TaskCodes) else len(self.data.classes)

    def build(self, **arguments: int) -> nn.Module:
        """A new network with weights from torch's global generator; UserError if timm refuses its arguments.

        `arguments` go before those in params.yaml.
        """
        import timm

        import rpg.tasks.networks  # noqa: F401

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

    def skeleton(self, base: AnyBase | None) -> StateDict:
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

    def train_base(self, base: AnyBase, seed: int) -> StateDict:
        """Train one network to tell all classes of the data set apart; Diverged if the loss stops being finite."""
        assert isinstance(base, Base)
        torch.manual_seed(derive("base", "weights", seed))
        network = self.build(num_classes=len(self.data.classes)).to(device()).train()
        weights = stack([network.state_dict()])
        optimizer = _optimizer(network, weights, base)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, base.learning_rate, total_steps=base.steps)
        order = generator("base", "order", seed)
        batches = _batches(len(self.data.train.labels), base.batch, order)
        for step in progress(range(1, base.steps + 1), "base", total=base.steps):
            losses_E = self._losses(network, weights, next(batches), [None], base.shift, order)
            self._step(optimizer, losses_E, f"base: seed {seed}", step)
            if step < base.steps:
                cycle.step()
        return unstack(weights)[0]

    def train(self, zoo: AnyZoo, runs: Sequence[Run], base: StateDict | None, save: Save) -> None:
        """Train the networks of `runs`, all of one seed, at once.

        The seed sets weights and data order. With `base` the weights start as its, except for those that have another
        shape there, the head. Raises Diverged if the loss stops being finite.
        """
        assert isinstance(zoo, Zoo)
        seed, codes = runs[0].seed, [run.code for run in runs]
        torch.manual_seed(derive("zoo", "weights", seed))
        network = self.build().to(device()).train()
        start = network.state_dict()
        shared = {name for name in start if base and base[name].shape == start[name].shape}
        start |= {name: base[name].to(device()) for name in shared} if base else {}
        weights = stack([start] * len(runs))
        optimizer = _optimizer(network, weights, zoo)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            zoo.learning_rate,
            total_steps=zoo.steps,
            final_div_factor=zoo.learning_rate / 25 / zoo.final_learning_rate,
        )
        order = generator("zoo", "order", seed)
        batches = _batches(len(self.data.train.labels), zoo.batch, order)
        for step in range(1, zoo.steps + zoo.saves * zoo.save_every + 1):
            for name, _ in network.named_parameters():
                weights[name].requires_grad_(step > zoo.head_steps or name not in shared)
            losses_E = self._losses(
                network, weights, next(batches), codes, zoo.shift, order, zoo.label_smoothing, zoo.focal_gamma
            )
            self._step(optimizer, losses_E, f"zoo: seed {seed}", step)
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
            return self._losses(self.network.train(recounted), weights, batch, codes, 0, draw)
        finally:
            self.network.eval()

    def recount(self, state_dict: StateDict) -> StateDict:
        """The same weights, with what BatchNorm counts taken anew from (at most RECOUNT) training images."""
        self.network.load_state_dict(state_dict)
        # In parts of about one length, since each counts alike.
        update_bn(self._recount_inputs.chunk(RECOUNT // SCORE_BATCH), self.network)
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    @cached_property
    def _recount_inputs(self) -> Tensor:
        return self.data.inputs(self.data.train.images[:RECOUNT], self.params.resolution).to(device())

    def _losses(
        self,
        network: nn.Module,
        weights: StateDict,
        batch: Tensor,
        codes: Sequence[str | None],
        shift: int,
        order: torch.Generator,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
    ) -> Tensor:
        """[E] mean losses on the training images `batch`: (1 - p)^γ times cross-entropy (Lin et al. 2017)."""
        images = _shift(self.data.train.images[batch], shift, order).to(device())
        labels_En = self.labels(self.data.train.labels[batch].to(device()), codes)
        logits_EKn = logits(network, weights, self.data.inputs(images, self.params.resolution)).transpose(1, 2)
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

    def labels(self, labels_n: Tensor, codes: Sequence[str | None]) -> Tensor:
        """[E, n] int64: the labels that networks of these task codes, or of none, shall find."""
        if codes[0] is None:
            return labels_n.expand(len(codes), -1)
        return torch.tensor([[int(bit) for bit in code or ""] for code in codes]).to(labels_n.device)[:, labels_n]

    @torch.inference_mode()
    def answers(self, state_dict: StateDict, inputs: Tensor) -> Tensor:
        """[n] int64: what a network with these weights takes its `inputs` [n, C, H, W] for, on the CPU.

        UserError if the weights do not fit the network.
        """
        try:
            self.network.load_state_dict(state_dict)
        except RuntimeError as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(f"the weights do not fit network '{self.params.network.name}': {message}") from error
        return torch.cat([self.network(part).argmax(1).cpu() for part in inputs.split(SCORE_BATCH)])

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
        return self.labels(self.data.split(split).labels, [code])[0]

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        answers = self.answers(state_dict, self.inputs(split))
        right = int((answers == self.targets(split, code)).sum())
        return Judgement({self.metric: 100 * right / len(answers)}, answers)

    def majority(self, code: str, split: str = "test") -> float:
        """Accuracy in percent on `split` of always giving the answer that is more frequent in training."""
        answer = int(self.targets("train", code).double().mean() > 0.5)
        return 100 * float((self.targets(split, code) == answer).double().mean())


def _optimizer(network: nn.Module, weights: StateDict, recipe: Base | Zoo) -> torch.optim.Optimizer:
    """AdamW, which goes number by number: networks that are stacked learn as they would alone."""
    learned = [weights[name].requires_grad_() for name, _ in network.named_parameters()]
    return torch.optim.AdamW(learned, recipe.learning_rate, weight_decay=recipe.weight_decay)


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
