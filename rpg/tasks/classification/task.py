"""Image classification with timm networks, scored by top-1 accuracy over all classes or in the task of a code.

With a task code, an image's label is the code's bit for the image's class.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.data import CLASSES, load_data
from rpg.data.images import Images
from rpg.tasks.base import Judgement, PromptedTask, Save
from rpg.tasks.classification.base_classifier import BaseClassifier
from rpg.tasks.classification.config import ClassificationBase, ClassificationTask, ClassificationZoo, TaskCodes
from rpg.tasks.classification.image_features import ImageFeatures
from rpg.tasks.classification.meanings import IGNORED, MEANINGS, Meaning
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict, logits, mismatch, stack, unstack
from rpg.utils import task_codes
from rpg.utils.device import device
from rpg.utils.errors import Diverged, UserError
from rpg.utils.progress import LastLoss, progress
from rpg.utils.rng import derive, generator

# Total number of images in a batch, over all networks that are scored at once.
SCORE_BATCH = 1000
RECOUNT, RECOUNT_BATCH = 500, 250


class Classification(PromptedTask):
    """Builds, trains and scores the classifiers of one experiment."""

    metrics = ("top1",)
    judge_batch = 16

    def __init__(self, params: ClassificationTask | TaskCodes, data_root: str | None) -> None:
        self.params = params
        self.data_root = data_root
        self._inputs: dict[str, Tensor] = {}

    @cached_property
    def data(self) -> Images:
        """The data set without hidden classes, loaded at first use; UserError if its folder is missing."""
        return self._every.of_classes(self.params.visible_classes) if self.params.hidden_classes else self._every

    @cached_property
    def _every(self) -> Images:
        return load_data(self.params.data, self.data_root)

    def on(self, data: str) -> "Classification":
        """Return the task on other data: `mnist`, or `hidden` for the classes that params.hidden names.

        The inputs are standardized as this task's are, because its networks see them so.
        """
        images = (
            self._every.of_classes(self.params.hidden_classes) if data == "hidden" else load_data(data, self.data_root)
        )
        other = Classification(self.params, self.data_root)
        other.data = replace(images, pixels=self.data.train_std_mean)
        other.network = self.network
        return other

    @property
    def outputs(self) -> int:
        """K, the number of outputs of a source network."""
        return 2 if self.params.has_codes else len(self.data.classes)

    @property
    def meaning(self) -> Meaning:
        """The meaning of the task codes."""
        return MEANINGS[self.params.bits if isinstance(self.params, TaskCodes) else "classes"]

    @cached_property
    def _white(self) -> int:
        return int(self.data.train.images.max())

    def build(self, **arguments: int) -> nn.Module:
        """Build a new network with weights from torch's global generator; UserError if timm refuses the arguments.

        `arguments` override those in params.yaml.
        """
        import timm

        import rpg.tasks.classification.networks  # noqa: F401

        network = self.params.network
        try:
            return timm.create_model(network.name, pretrained=False, **{**network.arguments, **arguments})
        except Exception as error:
            # The arguments go to any of a hundred network classes, each with its own exception types.
            raise self._refused(error) from error

    @cached_property
    def network(self) -> nn.Module:
        """A network in evaluation mode to load weights into; its own weights are meaningless."""
        # Building the network must not advance the generator that a training draws from. Scoring may build it in
        # inference mode, but a later training needs gradients.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            # Pooling is several times faster in this memory format.
            return self.build().to(device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def build_base(self) -> nn.Module:
        """Build a new base network, which is trained for all tasks at once."""
        return self.build(num_classes=self.base_outputs)

    @property
    def base_outputs(self) -> int:
        """The number of outputs of a base network."""
        return self.meaning.base_outputs(len(CLASSES[self.params.data]))

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        with torch.device("meta"):
            return self.build().state_dict()

    def check(self) -> None:
        """Raise UserError unless the network takes the data set's images and returns one score per class."""
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
        """Train one network for all tasks at once; Diverged if the loss is no longer finite."""
        assert isinstance(base, ClassificationBase)
        torch.manual_seed(derive("base", "weights", seed))
        network = self.build_base().to(device()).train()
        weights = stack([network.state_dict()])
        optimizer = _optimizer(network, weights, base)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, base.learning_rate, total_steps=base.steps)
        order = generator("base", "order", seed)
        batches = _batches(len(self.data.train.labels), base.batch, order)
        steps, loss = range(1, base.steps + 1), LastLoss()
        for step in progress(steps, "base", total=base.steps, note=loss):
            batch = next(batches)
            images = _shift(self.data.train.images[batch], base.shift, order)
            images, labels_n = self.meaning.base_batch(images, self.data.train.labels[batch], self._white, order)
            losses_E = self._losses(network, weights, images, labels_n.unsqueeze(0), [None])
            loss.of(losses_E)
            self._step(optimizer, losses_E, f"base: seed {seed}", step)
            if step < base.steps:
                cycle.step()
        return unstack(weights)[0]

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        """Train the networks of `runs` at once.

        A run's seed sets its weights and data order. With a base, all weights whose shape matches start as the base's;
        the head does not. Raises Diverged if a loss is no longer finite.
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
        early = frozenset(zoo.early or ())
        of_run = torch.tensor([list(order).index(run.seed) for run in runs])
        seeds, loss = ", ".join(map(str, order)), LastLoss()
        steps = range(1, zoo.steps + zoo.saves * zoo.save_every + 1)
        for step in progress(steps, f"zoo: seed {seeds}", len(steps), note=loss, tenths=False):
            for name, _ in network.named_parameters():
                weights[name].requires_grad_(step > zoo.head_steps or name not in shared)
            # The networks of one seed share a batch.
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
            loss.of(losses_E)
            self._step(optimizer, losses_E, f"zoo: seed {seeds}", step)
            if step < zoo.steps:
                cycle.step()
                if step in early:
                    save(step, unstack(weights))
            elif (step - zoo.steps) % zoo.save_every == 0 and step > zoo.steps:
                save(step, unstack(weights))

    def losses(
        self,
        weights: StateDict,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
        statistics: float | None = None,
        teachers: StateDict | None = None,
    ) -> Tensor:
        learned = {name for name, _ in self.network.named_parameters()}
        own = {name: tensor if name in learned else tensor.detach().clone() for name, tensor in weights.items()}
        batch = torch.randint(len(self.data.train.labels), (images,), generator=draw)
        network = self.network if statistics is None else self._counting
        inputs = self.network_inputs(self.data.train.images[batch].to(device()), codes)
        logits_EKn = logits(network, own, inputs).transpose(1, 2)
        if teachers is None:
            labels_En = self.labels(self.data.train.labels[batch].expand(len(codes), -1).to(device()), codes)
            losses_En = functional.cross_entropy(logits_EKn, labels_En, reduction="none", ignore_index=IGNORED)
            losses_E = losses_En.sum(1) / (labels_En != IGNORED).sum(1).clamp(min=1)
        else:
            with torch.no_grad():
                targets_EKn = logits(self.network, teachers, inputs).transpose(1, 2).log_softmax(1)
            divergence = functional.kl_div(logits_EKn.log_softmax(1), targets_EKn, log_target=True, reduction="none")
            losses_E = divergence.sum(1).mean(1)
        return losses_E + statistics * _statistics_distance(weights, own) if statistics else losses_E

    def score_losses(
        self,
        weights: StateDict,
        scores_E: Tensor,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
    ) -> Tensor:
        """Return [E] the squared distances of the networks' accuracies from `scores_E`, in percent, divided by 100.

        The accuracy is a step function of the weights. Its gradient is that of a smooth accuracy, the mean sigmoid of
        the right class's margin over the others, with the margins' standard deviation as the unit.
        """
        batch = torch.randint(len(self.data.train.labels), (images,), generator=draw)
        inputs = self.network_inputs(self.data.train.images[batch].to(device()), codes)
        labels_En1 = self.labels(self.data.train.labels[batch].expand(len(codes), -1).to(device()), codes).unsqueeze(2)
        logits_EnK = logits(self.network, weights, inputs)
        others_EnK = logits_EnK.scatter(2, labels_En1, -torch.inf)
        margins_En = logits_EnK.gather(2, labels_En1).squeeze(2) - others_EnK.amax(2)
        smooth_E = torch.sigmoid(margins_En / margins_En.detach().std(1, keepdim=True).clamp(min=1e-6)).mean(1)
        accuracies_E = (margins_En > 0).to(smooth_E).mean(1) + smooth_E - smooth_E.detach()
        return 100 * (accuracies_E - scores_E / 100).square()

    @torch.no_grad()
    def recount(self, state_dicts: Sequence[StateDict], codes: Sequence[str | None]) -> list[StateDict]:
        """Return the same weights with BatchNorm's running statistics recomputed from at most RECOUNT training images.

        The statistics are means over batches, as in torch's `update_bn`, for several networks at once.
        """
        weights = {name: tensor.to(device()) for name, tensor in stack([dict(one) for one in state_dicts]).items()}
        counted = []
        for name, module in self._counting.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                weights[f"{name}.num_batches_tracked"].zero_()
                counted += [f"{name}.running_mean", f"{name}.running_var"]
        # The parts have nearly equal lengths, because each has the same weight in the mean.
        inputs = self.network_inputs(self.data.train.images[:RECOUNT], codes).to(device())
        parts = inputs.chunk(RECOUNT // RECOUNT_BATCH, dim=-4)
        totals = {name: torch.zeros_like(weights[name]) for name in counted}
        for part in parts:
            logits(self._counting, weights, part)
            for name, total in totals.items():
                total += weights[name]
        return unstack({**weights, **{name: total / len(parts) for name, total in totals.items()}})

    @cached_property
    def _counting(self) -> nn.Module:
        """The network in training mode, where BatchNorm's statistics are those of the last batch alone."""
        # All calls share one network, because `logits` caches its joint networks per network.
        network = copy.deepcopy(self.network).train()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        return network

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
        """Return [E] mean losses on training images: (1 - p)^γ times cross-entropy (Lin et al. 2017).

        `images`: the same [n, C, H, W] for all networks, or [E, n, C, H, W]. `labels_En`: the data set's labels.
        """
        labels_En = self.labels(labels_En.to(device()), codes)
        inputs = self.network_inputs(images.to(device()), codes)
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
        """Return [E, n] int64: the data set's labels converted to the networks' tasks; codes of None keep them."""
        if codes[0] is None:
            return labels_En
        return torch.stack(
            [self.meaning.labels(labels_n, code or "") for labels_n, code in zip(labels_En, codes, strict=True)]
        )

    def network_inputs(self, images: Tensor, codes: Sequence[str | None]) -> Tensor:
        """Return what E networks see of images [n, C, H, W], or [E, n, C, H, W] with separate images for each.

        The result is [n, C, H, W] if all networks see the same, and [E, n, C, H, W] otherwise.
        """
        if codes[0] is not None and self.meaning.own_images:
            each = images if images.ndim == 5 else images.expand(len(codes), *images.shape)
            images = torch.stack(
                [self.meaning.images(own, code or "", self._white) for own, code in zip(each, codes, strict=True)]
            )
        inputs = self.data.inputs(images.flatten(0, -4), self.params.resolution)
        return inputs.unflatten(0, images.shape[:-3])

    @torch.inference_mode()
    def answers(self, state_dicts: Sequence[StateDict], inputs: Tensor) -> Tensor:
        """Return [E, n] int64, on the CPU: the answers of networks with these weights.

        `inputs` is [n, C, H, W], or [E, n, C, H, W] with separate inputs for each network. Raises UserError if some
        weights do not fit the network.
        """
        own = self.network.state_dict()
        for state_dict in state_dicts:
            if why := mismatch(state_dict, own):
                raise UserError(f"the weights do not fit network '{self.params.network.name}': {why}")
        weights = {name: tensor.to(device()) for name, tensor in stack([dict(one) for one in state_dicts]).items()}
        parts = inputs.split(max(1, SCORE_BATCH // len(state_dicts)), dim=-4)
        return torch.cat([logits(self.network, weights, part).argmax(2).cpu() for part in parts], 1)

    def inputs(self, split: str) -> Tensor:
        """Return [n, C, H, W] float32: all images of a split as network inputs, computed once."""
        if split not in self._inputs:
            parts = self.data.split(split).images.split(SCORE_BATCH)
            inputs = [self.data.inputs(part, self.params.resolution) for part in parts]
            self._inputs[split] = torch.cat(inputs).to(device())
        return self._inputs[split]

    def split_inputs(self, split: str, codes: Sequence[str | None]) -> Tensor:
        """Return what E networks see of a split: [n, C, H, W], or [E, n, C, H, W] if each sees other images."""
        if codes[0] is None or not self.meaning.own_images:
            return self.inputs(split)
        return self.network_inputs(self.data.split(split).images, codes).to(device())

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
        answers_En = self.answers(state_dicts, self.split_inputs(split, codes))
        labels_En = self.labels(self.data.split(split).labels.expand(len(codes), -1), codes)
        return [
            Judgement.of(self.metric, answers, labels) for answers, labels in zip(answers_En, labels_En, strict=True)
        ]

    def majority(self, code: str) -> int:
        """Return the most frequent right answer in training, in the task of `code`."""
        return int(self.targets("train", code).double().mean() > 0.5)

    def base_network(self, state_dict: StateDict) -> BaseClassifier:
        return BaseClassifier(self, state_dict)

    def image_features_of(self, tensors: StateDict) -> ImageFeatures:
        return ImageFeatures.of_tensors(self, tensors)

    def labeled_images(self, split: str) -> tuple[Tensor, Tensor]:
        images = self.data.split(split)
        return images.images, images.labels

    def prompted_codes(self, data: str) -> list[str]:
        """Return the held-out codes; for hidden classes, each of them against the others."""
        assert isinstance(self.params, TaskCodes)
        if data == "hidden":
            return [task_codes.of_classes([index]) for index in self.params.hidden_classes]
        return self.params.held_out_codes()

    def image_features(self, base: StateDict) -> ImageFeatures:
        """Return the features of images for prompts, with the weights of a base network."""
        std, mean = self.data.train_std_mean
        shape = torch.tensor(self.data.train.images.shape[1:])
        return ImageFeatures(self, base, {"mean": mean, "std": std, "shape": shape, "white": torch.tensor(self._white)})


def _optimizer(
    network: nn.Module, weights: StateDict, recipe: ClassificationBase | ClassificationZoo
) -> torch.optim.Optimizer:
    """Return AdamW over stacked weights.

    AdamW works number by number, so stacked networks learn as they would alone, up to rounding: torch's fused AdamW
    (2.11.0) takes numbers in vectors, and the last bit of a number may depend on its place in memory.
    """
    learned = [weights[name].requires_grad_() for name, _ in network.named_parameters()]
    return torch.optim.AdamW(learned, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _statistics_distance(generated: StateDict, counted: StateDict) -> Tensor:
    """Return [E] the mean squared distance of BatchNorm's statistics from counted ones.

    Means are compared in counted standard deviations, variances by their logarithms; 1e-5 is BatchNorm's epsilon.
    """
    distances = []
    for name in (name.removesuffix("running_var") for name in counted if name.endswith("running_var")):
        means, variances = (
            [weights[f"{name}{kind}"] + epsilon for weights in (generated, counted)]
            for kind, epsilon in (("running_mean", 0.0), ("running_var", 1e-5))
        )
        shift = (means[0] - means[1]).square() / variances[1]
        distances.append((shift + (variances[0].log() - variances[1].log()).square()).mean(1))
    return torch.stack(distances).mean(0)


def _batches(count: int, batch: int, order: torch.Generator) -> Iterator[Tensor]:
    """Yield endless batches of indices; each epoch is a new permutation, and an incomplete last batch is dropped."""
    batch = min(batch, count)
    while True:
        permutation = torch.randperm(count, generator=order)
        for start in range(0, count - batch + 1, batch):
            yield permutation[start : start + batch]


def _shift(images: Tensor, pixels: int, order: torch.Generator) -> Tensor:
    """Shift each image [n, C, H, W] by up to `pixels` in both directions; the new border is black, 0."""
    if pixels == 0:
        return images
    n, _, height, width = images.shape
    padded = functional.pad(images, (pixels,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = torch.randint(2 * pixels + 1, (2, n), generator=order)
    return windows[torch.arange(n), :, rows, columns]
