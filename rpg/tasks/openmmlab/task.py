"""Segmentation and detection with OpenMMLab's toolboxes: their configs, data sets, Runner and metrics.

A task names a config, of mmseg or mmdet (`mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py`) or a file of its own, and
what is changed in it. Networks are trained by mmengine's Runner and scored by the toolbox's metric.
"""

import contextlib
import copy
import importlib.util
import io
import sys
import tempfile
import types
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpg.data import data_folder
from rpg.tasks.base import Judgement, Picture, Region, Save, Task
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.detection.config import DetectionTask
from rpg.tasks.openmmlab.config import RunnerBase, RunnerZoo
from rpg.tasks.segmentation.config import SegmentationTask
from rpg.tasks.stack import StateDict
from rpg.utils.device import device
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import RESULTS
from rpg.utils.progress import progress
from rpg.utils.rng import derive

# Batches of a split are kept in memory if their images take no more bytes; otherwise each network has them read anew.
KEEP = 2**30
SCENES = RESULTS / "scenes"


def without_compiled_operations() -> None:
    """Let mmcv.ops be imported where mmcv was installed without its compiled operations, which takes no compiler.

    torchvision has what Mask R-CNN needs of them; any other one raises an error when it is called.
    """
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext"):
        return
    from torchvision.ops import nms, roi_align

    module = types.ModuleType("mmcv._ext")
    # mmengine looks for it, and takes a module without one for an error.
    module.__spec__ = ModuleSpec("mmcv._ext", None)

    def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        assert offset == 0
        return nms(boxes, scores, iou_threshold)

    def align(
        images: Tensor, boxes: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, aligned_height: int,
        aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
    ) -> None:  # fmt: skip
        assert pool_mode == 1
        output.copy_(roi_align(images, boxes, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned))

    def align_backward(
        grad: Tensor, boxes: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_images: Tensor, aligned_height: int,
        aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
    ) -> None:  # fmt: skip
        assert pool_mode == 1
        sizes = (aligned_height, aligned_width, *grad_images.shape)
        found = torch.ops.torchvision._roi_align_backward(grad, boxes, spatial_scale, *sizes, sampling_ratio, aligned)
        grad_images.copy_(found)

    def missing(name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise UserError(
                f"mmcv's operation '{name}' is not compiled here; it needs an mmcv that was built beside torch"
            )

        return refuse

    operations = {"nms": suppress, "roi_align_forward": align, "roi_align_backward": align_backward}
    module.__dict__.update(operations, __getattr__=missing)
    sys.modules["mmcv._ext"] = module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the toolboxes print, and warn of, at every turn."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class OpenMMLab(Task):
    """What segmentation and detection have in common; a task that is one of these says the rest."""

    # The toolbox, as it is imported.
    scope: str

    def __init__(self, params: SegmentationTask | DetectionTask, data_root: str | None) -> None:
        self.params, self.data_root = params, data_root
        self._loaded: dict[str, tuple[Iterable[Any], Any]] = {}
        self._targets: dict[str, Tensor] = {}

    @abstractmethod
    def register(self) -> None:
        """Tell mmengine's registries what configs may name."""

    @abstractmethod
    def write_scenes(self) -> Path:
        """Have the scenes on disk in the data set's own layout; their folder."""

    @abstractmethod
    def check_folder(self, folder: Path) -> None:
        """UserError if the data set is not in `folder`, or only in part."""

    @abstractmethod
    def of_training(self, dataset: Any) -> dict[str, Any]:
        """Of a config's training data set, the keys that say which images of the folder it holds."""

    @abstractmethod
    def answer(self, sample: Any) -> np.ndarray:
        """[n] int64: the answers on one image, a data sample of the toolbox's with what was found."""

    @abstractmethod
    def target(self, sample: Any) -> np.ndarray:
        """[n] int64: what they should be."""

    @abstractmethod
    def percent(self, found: dict[str, float], split: str) -> dict[str, float]:
        """The toolbox's names and numbers as `metrics`, of those that the split has something to measure by."""

    @abstractmethod
    def regions(self, sample: Any, names: Sequence[str]) -> tuple[list[Region], list[Region]]:
        """What is on an image, and what was found."""

    @cached_property
    def folder(self) -> Path:
        """Where the data set lies; UserError if it does not, or not whole."""
        if self.params.data == "scenes":
            return self.write_scenes()
        folder = data_folder(self.params.data, self.data_root).resolve()
        self.check_folder(folder)
        return folder

    @cached_property
    def config(self) -> Any:
        """The config with its changes, on the data set; UserError if there is no such config or key."""
        config = self._read_config()
        folder = self.folder
        try:
            for loader in (config.train_dataloader, config.test_dataloader):
                dataset = loader.dataset
                if "dataset" in dataset or "datasets" in dataset:
                    raise UserError(
                        f"params.yaml: config '{self.params.config}': wraps its data set in a {dataset.type}; name it"
                        " alone"
                    )
                dataset.data_root = str(folder)
                # Serialised for workers, of which there are none.
                dataset.serialize_data = False
                # Workers would draw random numbers of their own.
                loader.num_workers, loader.persistent_workers = 0, False
        except AttributeError as error:
            raise self._refused(error) from error
        return config

    def _read_config(self) -> Any:
        """The config with its changes; UserError if there is no such config or key."""
        without_compiled_operations()
        from mmengine.config import Config
        from mmengine.logging import MMLogger
        from mmengine.registry import init_default_scope

        with quiet():
            self.register()
        # Toolbox and metric tell a log what they find; here it is returned.
        MMLogger.get_current_instance().setLevel("ERROR")
        name = self.params.config
        shipped = name.removeprefix(f"{self.scope}::")
        # Not mmengine.hub's get_config, which would have pip install the toolbox under another name.
        path = Path(name) if shipped == name else self._shipped / shipped
        try:
            if not path.is_file():
                raise UserError(f"params.yaml: task.config: no file '{path}'")
            config = Config.fromfile(path)
            # The Runner would set it in print four times, which takes a second, for a log that nobody reads; fromfile
            # has an argument that should say so.
            object.__setattr__(config, "_format_python_code", False)
            config.merge_from_dict(self.params.overrides)
            init_default_scope(self.scope)
            config.default_scope = self.scope
        except UserError:
            raise
        except Exception as error:
            # A config is a program.
            raise self._refused(error) from error
        return config

    @property
    def _shipped(self) -> Path:
        """Where the toolbox has its own configs."""
        spec = importlib.util.find_spec(self.scope)
        assert spec
        assert spec.origin
        return Path(spec.origin).parent / ".mim" / "configs"

    def _refused(self, reason: Exception | str) -> UserError:
        message = " ".join(str(reason).split())[:300]
        return UserError(f"params.yaml: config '{self.params.config}': {message}")

    @cached_property
    def network(self) -> nn.Module:
        # Building one must not move the generator that a training draws from.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self._build(self.config).to(device()).eval()

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        # Some of the toolboxes' modules look at numbers while they are built, so that is done for real.
        return {name: tensor.to("meta") for name, tensor in self._build(self._read_config()).state_dict().items()}

    def _build(self, config: Any) -> nn.Module:
        from mmengine.registry import MODELS

        try:
            with quiet():
                return MODELS.build(copy.deepcopy(config.model))
        except Exception as error:
            # The config's arguments go to any of a thousand modules, which fail each in its own way.
            raise self._refused(error) from error

    def check(self) -> None:
        classes = len(self._dataset("validation").metainfo["classes"])
        for key, count in _class_counts(self.config.model, "model"):
            if count != classes:
                raise self._refused(f"{key} is {count}, but the data set has {classes} classes")
        assert self.indices
        assert self.network

    def _dataset(self, split: str, indices: Sequence[int] | None = None) -> Any:
        """A split's data set, `indices` of it; of 'validation' without them, the whole training folder."""
        from mmengine.registry import DATASETS

        train, test = self.config.train_dataloader.dataset, self.config.test_dataloader.dataset
        config = copy.deepcopy(train if split == "train" else test)
        if split == "validation":
            config.update(copy.deepcopy(self.of_training(train)))
        config.indices = None if indices is None else list(indices)
        try:
            with quiet():
                return DATASETS.build(config)
        except Exception as error:
            raise UserError(f"{self.folder}: cannot be read ({' '.join(str(error).split())[:300]})") from error

    @cached_property
    def indices(self) -> dict[str, list[int] | None]:
        """Which images 'train', 'validation' and 'test' have of their data set; None is all of them."""
        paths = {
            split: [dataset.get_data_info(index)["img_path"] for index in range(len(dataset))]
            for split in ("train", "validation")
            for dataset in [self._dataset(split)]
        }
        count = self.params.validation
        if count >= len(paths["validation"]):
            raise UserError(
                f"params.yaml: task.validation: {count} of the {len(paths['validation'])} images in {self.folder}"
                " leave none to learn from"
            )
        held_out = set(sorted(paths["validation"])[-count:])
        return {
            "train": [index for index, path in enumerate(paths["train"]) if path not in held_out],
            "validation": [index for index, path in enumerate(paths["validation"]) if path in held_out],
            "test": None,
        }

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        assert isinstance(base, RunnerBase)
        found: list[StateDict] = []
        self._run("base", base, seed, [base.steps], None, lambda _, states: found.extend(states))
        return found[0]

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        assert isinstance(zoo, RunnerZoo)
        (run,), (base,) = runs, bases
        self._run("zoo", zoo, run.seed, [zoo.steps + zoo.save_every * (k + 1) for k in range(zoo.saves)], base, save)

    def _run(
        self,
        stage: str,
        recipe: RunnerBase | RunnerZoo,
        seed: int,
        at: Sequence[int],
        start: StateDict | None,
        save: Save,
    ) -> None:
        """Train one network by mmengine's Runner and call `save` with its state at the steps `at`."""
        from mmengine.hooks import Hook
        from mmengine.runner import Runner

        what, steps = f"{stage}: seed {seed}", max(at)
        shown = progress(range(steps), what, total=steps)

        class Kept(Hook):
            """Starts from `start` and hands on what is to be kept."""

            def before_train(self, runner: Any) -> None:
                # After the Runner has given the network its first weights.
                if start is not None:
                    runner.model.load_state_dict(start)

            def after_train_iter(
                self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
            ) -> None:
                step = runner.iter + 1
                if not torch.isfinite(torch.as_tensor(outputs["loss"])):
                    raise Diverged(f"{what} diverged at step {step}; lower its learning rate")
                if step in at:
                    state = runner.model.state_dict()
                    save(step, [{name: tensor.detach().cpu().clone() for name, tensor in state.items()}])
                next(shown, None)

            def after_train(self, runner: Any) -> None:
                next(shown, None)

        config, learned = copy.deepcopy(self.config), self.indices["train"]
        with tempfile.TemporaryDirectory() as folder:
            try:
                config.merge_from_dict(recipe.overrides)
                config.train_dataloader.dataset.indices = learned
                # mmengine keeps what it makes under a name and the second, and would give it to the next of that name.
                config.work_dir, config.log_level, config.experiment_name = folder, "ERROR", Path(folder).name
                config.randomness = {"seed": derive(stage, self.scope, seed) % 2**31}
                config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": steps + 1}
                config.default_hooks = {"logger": None, "checkpoint": None}
                for key in ("dataloader", "evaluator", "cfg"):
                    config[f"val_{key}"] = config[f"test_{key}"] = None
                with quiet():
                    runner = Runner.from_cfg(config)
                    # `train` would build it, too late to tell the overrides' faults from what fails in training.
                    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            except Exception as error:
                # As with the network's, any of a thousand modules.
                raise self._refused(f"{stage}.overrides: {error}") from error
            runner.register_hook(Kept())
            with quiet():
                runner.train()

    def loaded(self, split: str) -> tuple[Iterable[Any], Any]:
        """The batches of a split, and the toolbox's evaluator for it."""
        if split not in self._loaded:
            from mmengine.evaluator import Evaluator
            from mmengine.runner import Runner

            dataset = self._dataset(split, self.indices[split])
            loader = Runner.build_dataloader({**self.config.test_dataloader, "dataset": dataset})
            with quiet():
                evaluator = Evaluator(self.evaluator(split, dataset))
            evaluator.dataset_meta = dataset.metainfo
            first = dataset[0]["inputs"]
            fits = first.numel() * first.element_size() * len(dataset) <= KEEP
            self._loaded[split] = list(loader) if fits else loader, evaluator
        return self._loaded[split]

    def evaluator(self, split: str, dataset: Any) -> Any:
        """The config of the metric that measures the split."""
        return self.config.test_evaluator

    def _put(self, state_dict: StateDict) -> None:
        try:
            self.network.load_state_dict(state_dict)
        except RuntimeError as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(f"the weights do not fit the network of '{self.params.config}': {message}") from error

    def main_alone(self, evaluator: Any) -> contextlib.AbstractContextManager[None]:
        """While it lasts, network and evaluator leave out what `metric` and the answers do not depend on."""
        return contextlib.nullcontext()

    @torch.inference_mode()
    def _outputs(self, batches: Iterable[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """Batches, and the data samples that the network makes of them."""
        for batch in batches:
            # The network writes its predictions into what it is given.
            yield batch, self.network.test_step(copy.deepcopy(batch))  # type: ignore[operator]

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        answers: list[np.ndarray] = []
        self._put(state_dict)
        # A loader draws a seed, and a training that saves and judges goes on drawing afterwards.
        with torch.random.fork_rng(devices=[]), quiet():
            batches, evaluator = self.loaded(split)
            with self.main_alone(evaluator) if main_only else contextlib.nullcontext():
                for batch, outputs in self._outputs(batches):
                    evaluator.process(data_samples=outputs, data_batch=batch)
                    answers += [self.answer(sample) for sample in outputs]
                found = evaluator.evaluate(len(answers))
        numbers = {name.partition("/")[2] or name: float(value) for name, value in found.items()}
        scores = self.percent(numbers, split)
        names = self.metrics[:1] if main_only else self.metrics
        return Judgement({name: scores[name] for name in names if name in scores}, _joined(answers))

    def targets(self, split: str, code: str | None = None) -> Tensor:
        if split not in self._targets:
            samples = (sample for batch in self.loaded(split)[0] for sample in batch["data_samples"])
            self._targets[split] = _joined([self.target(sample) for sample in samples])
        return self._targets[split]

    def pictures(self, state_dict: StateDict, count: int) -> list[Picture]:
        dataset = self._dataset("validation", (self.indices["validation"] or [])[:count])
        batches = [{"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]} for item in dataset]
        pictures = []
        self._put(state_dict)
        for batch, (sample,) in self._outputs(batches):
            truth, found = self.regions(sample, dataset.metainfo["classes"])
            image = batch["inputs"][0].permute(1, 2, 0).numpy()[..., ::-1]
            pictures.append(Picture(image.copy(), truth, found))
        return pictures


def _joined(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _class_counts(node: Any, where: str) -> Iterator[tuple[str, int]]:
    """Every `num_classes` in a config, with its key."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "num_classes":
            yield f"{where}.{key}", value
        else:
            yield from _class_counts(value, f"{where}.{key}")
