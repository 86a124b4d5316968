"""Segmentation and detection with OpenMMLab's toolboxes: their configs, data sets, Runner and metrics.

A task names a config of mmseg or mmdet (`mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py`) or a file, and changes to the
config. mmengine's Runner trains networks, and the toolbox's metric scores them.
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
from rpg.tasks.openmmlab.config import OpenMMLabTask, RunnerBase, RunnerZoo
from rpg.tasks.openmmlab.literal import read_literals, types_in
from rpg.tasks.stack import StateDict
from rpg.utils.device import device
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import RESULTS
from rpg.utils.progress import LastLoss, progress
from rpg.utils.rng import derive

# Maximum bytes of a split's images to cache in memory. A larger split is read again for each network.
MAX_CACHED_BYTES = 2**30
SCENES = RESULTS / "scenes"


def without_compiled_operations() -> None:
    """Make mmcv.ops importable if mmcv was installed without compiled operations, so that nobody needs a compiler.

    torchvision provides the operations of Mask R-CNN; any other operation raises an error at its call.
    """
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext"):
        return
    from torchvision.ops import nms, roi_align

    module = types.ModuleType("mmcv._ext")
    # mmengine checks `__spec__` and treats a module without it as an error.
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
        grads = torch.ops.torchvision._roi_align_backward(grad, boxes, spatial_scale, *sizes, sampling_ratio, aligned)
        grad_images.copy_(grads)

    def missing(name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise UserError(
                f"mmcv's operation '{name}' is not compiled here; install an mmcv that was built for this torch"
            )

        return refuse

    operations = {"nms": suppress, "roi_align_forward": align, "roi_align_backward": align_backward}
    module.__dict__.update(operations, __getattr__=missing)
    sys.modules["mmcv._ext"] = module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the toolboxes' output and warnings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class OpenMMLab(Task):
    """The common code of segmentation and detection; a subclass implements the rest."""

    # The toolbox's import name, and its class that draws predictions.
    scope: str
    visualizer: str

    def __init__(self, params: OpenMMLabTask, data_root: str | None) -> None:
        self.params, self.data_root = params, data_root
        self._loaded: dict[str, tuple[Iterable[Any], Any]] = {}
        self._targets: dict[str, Tensor] = {}

    @classmethod
    @abstractmethod
    def register(cls) -> None:
        """Register the modules that configs may name with mmengine's registries."""

    @abstractmethod
    def write_scenes(self) -> Path:
        """Write the scenes in the data set's layout; return their folder."""

    @abstractmethod
    def check_folder(self, folder: Path) -> None:
        """Raise UserError if `folder` does not hold the complete data set."""

    @abstractmethod
    def training_keys(self, dataset: Any) -> dict[str, Any]:
        """Return the keys of a config's training data set that select its images."""

    @abstractmethod
    def answer(self, sample: Any) -> np.ndarray:
        """Return [n] int64: the answers on one image; `sample` is a data sample with predictions."""

    @abstractmethod
    def target(self, sample: Any) -> np.ndarray:
        """Return [n] int64: the right answers on one image."""

    @abstractmethod
    def percent(self, scores: dict[str, float], split: str) -> dict[str, float]:
        """Return metric → percent from the toolbox's scores, without metrics that the split can't measure."""

    @abstractmethod
    def regions(self, sample: Any, names: Sequence[str]) -> tuple[list[Region], list[Region]]:
        """Return an image's true regions and its predicted regions."""

    @cached_property
    def folder(self) -> Path:
        """The data set's folder; UserError if it is missing or incomplete."""
        if self.params.dataset == "scenes":
            return self.write_scenes()
        folder = data_folder(self.params.dataset, self.data_root).resolve()
        self.check_folder(folder)
        return folder

    @cached_property
    def config(self) -> Any:
        """The config with its changes and the data set's folder; UserError if there is no such config or key."""
        config = self.read_config()
        folder = self.folder
        try:
            for loader in (config.train_dataloader, config.test_dataloader):
                dataset = loader.dataset
                if "dataset" in dataset or "datasets" in dataset:
                    raise UserError(
                        f"params.yaml: config '{self.params.config}': wraps its data set in a {dataset.type}; name"
                        " the data set alone"
                    )
                dataset.data_root = str(folder)
                # Serialization helps only worker processes, and there are none.
                dataset.serialize_data = False
                # Worker processes would draw their own random numbers.
                loader.num_workers, loader.persistent_workers = 0, False
        except AttributeError as error:
            raise self._refused(error) from error
        return config

    @classmethod
    def import_libraries(cls) -> None:
        """Import the toolbox, and register its modules."""
        without_compiled_operations()
        import mmengine.evaluator
        import mmengine.runner  # noqa: F401

        with quiet():
            cls.register()

    def read_config(self) -> Any:
        """Return the config with its changes; UserError if there is no such config or key."""
        self.import_libraries()
        from mmengine.config import Config
        from mmengine.logging import MMLogger
        from mmengine.registry import init_default_scope

        # Toolbox and metric log their results, which this project returns instead.
        MMLogger.get_current_instance().setLevel("ERROR")
        name = self.params.config
        shipped = name.removeprefix(f"{self.scope}::")
        # mmengine.hub's get_config would make pip install the toolbox under another name.
        path = Path(name) if shipped == name else self._shipped / shipped
        try:
            if not path.is_file():
                raise UserError(f"params.yaml: task.config: no file '{path}'")
            config = Config(read_literals(path)) if self.params.literal else Config.fromfile(path)
            # The Runner formats the config four times for an unread log, which takes a second. fromfile's argument for
            # this has no effect.
            object.__setattr__(config, "_format_python_code", False)
            config.merge_from_dict(self.params.overrides)
            init_default_scope(self.scope)
            config.default_scope = self.scope
        except UserError:
            raise
        except Exception as error:
            # A config is a program, so it can raise any exception.
            raise self._refused(error) from error
        return config

    def mmengine_config(self) -> tuple[Any, dict[str, Any]]:
        from mmengine.registry import DATASETS

        from rpg.tasks.openmmlab import vitdet

        config = self.read_config()
        if vitdet.TYPES & {name.rpartition(".")[2] for name in types_in(config.model.to_dict())}:
            imports = [*config.get("custom_imports", {}).get("imports", []), vitdet.MODULE]
            config.custom_imports = {"imports": imports, "allow_failed_imports": False}
        dataset = config.test_dataloader.dataset
        # mmseg's `inference_model` reads the pipeline, the inferencers of both toolboxes the visualizer.
        config.setdefault("test_pipeline", dataset.pipeline)
        config.setdefault("visualizer", {"type": self.visualizer, "name": "visualizer"})
        try:
            with quiet():
                return config, DATASETS.build({**copy.deepcopy(dataset), "lazy_init": True}).metainfo
        except Exception as error:
            # The config may name any data set, each with its own exception types.
            raise self._refused(error) from error

    @property
    def _shipped(self) -> Path:
        """The folder of the toolbox's own configs."""
        spec = importlib.util.find_spec(self.scope)
        assert spec
        assert spec.origin
        return Path(spec.origin).parent / ".mim" / "configs"

    def _refused(self, reason: Exception | str) -> UserError:
        message = " ".join(str(reason).split())[:300]
        return UserError(f"params.yaml: config '{self.params.config}': {message}")

    @cached_property
    def network(self) -> nn.Module:
        # Building the network must not advance the generator that a training draws from.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self._made(self.config).to(device()).eval()

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        # Some toolbox modules read values while they are built, so the device "meta" would fail.
        return {name: tensor.to("meta") for name, tensor in self.build().state_dict().items()}

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self._made(self.read_config())

    def _made(self, config: Any) -> nn.Module:
        from mmengine.registry import MODELS

        try:
            with quiet():
                return MODELS.build(copy.deepcopy(config.model))
        except Exception as error:
            # The config's arguments go to any of a thousand modules, each with its own exception types.
            raise self._refused(error) from error

    def check(self) -> None:
        classes = len(self._dataset("validation").metainfo["classes"])
        for key, count in _class_counts(self.config.model, "model"):
            if count != classes:
                raise self._refused(f"{key} is {count}, but the data set has {classes} classes; set it in overrides")
        assert self.indices
        assert self.network

    def _dataset(self, split: str, indices: Sequence[int] | None = None) -> Any:
        """Return a split's data set, restricted to `indices`.

        'validation' without indices is the whole training folder.
        """
        from mmengine.registry import DATASETS

        train, test = self.config.train_dataloader.dataset, self.config.test_dataloader.dataset
        config = copy.deepcopy(train if split == "train" else test)
        if split == "validation":
            config.update(copy.deepcopy(self.training_keys(train)))
        config.indices = None if indices is None else list(indices)
        try:
            with quiet():
                return DATASETS.build(config)
        except Exception as error:
            raise UserError(f"{self.folder}: cannot be read ({' '.join(str(error).split())[:300]})") from error

    @cached_property
    def indices(self) -> dict[str, list[int] | None]:
        """The image indices of 'train', 'validation' and 'test' in their data sets; None means all images."""
        paths = {
            split: [dataset.get_data_info(index)["img_path"] for index in range(len(dataset))]
            for split in ("train", "validation")
            for dataset in [self._dataset(split)]
        }
        count = self.params.validation
        if count >= len(paths["validation"]):
            raise UserError(
                f"params.yaml: task.validation: {count} of the {len(paths['validation'])} images in {self.folder}"
                " leave none to learn from; lower it"
            )
        held_out = set(sorted(paths["validation"])[-count:])
        return {
            "train": [index for index, path in enumerate(paths["train"]) if path not in held_out],
            "validation": [index for index, path in enumerate(paths["validation"]) if path in held_out],
            "test": None,
        }

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        assert isinstance(base, RunnerBase)
        saved: list[StateDict] = []
        self._run("base", base, seed, [base.steps], None, lambda _, states: saved.extend(states))
        return saved[0]

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
        last = LastLoss()
        shown = progress(range(steps), what, total=steps, note=last)

        class StartAndSave(Hook):
            """Loads `start` and saves the states at the steps `at`."""

            def before_train(self, runner: Any) -> None:
                # The Runner has already initialized the network, so `start` replaces its weights.
                if start is not None:
                    runner.model.load_state_dict(start)

            def after_train_iter(
                self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
            ) -> None:
                step = runner.iter + 1
                loss = torch.as_tensor(outputs["loss"])
                last.of(loss)
                if not torch.isfinite(loss):
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
                # mmengine caches objects by name and second, so two runs in one second must have different names.
                config.work_dir, config.log_level, config.experiment_name = folder, "ERROR", Path(folder).name
                config.randomness = {"seed": derive(stage, self.scope, seed) % 2**31}
                config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": steps + 1}
                config.default_hooks = {"logger": None, "checkpoint": None}
                for key in ("dataloader", "evaluator", "cfg"):
                    config[f"val_{key}"] = config[f"test_{key}"] = None
                with quiet():
                    runner = Runner.from_cfg(config)
                    # `train` would build the optimizer too late to tell faulty overrides from a failed training.
                    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            except Exception as error:
                # Any of a thousand modules may fail, each with its own exception types.
                raise self._refused(f"{stage}.overrides: {error}") from error
            runner.register_hook(StartAndSave())
            with quiet():
                runner.train()

    def loaded(self, split: str) -> tuple[Iterable[Any], Any]:
        """Return the batches of a split, and the toolbox's evaluator for the split."""
        if split not in self._loaded:
            from mmengine.evaluator import Evaluator
            from mmengine.runner import Runner

            dataset = self._dataset(split, self.indices[split])
            loader = Runner.build_dataloader({**self.config.test_dataloader, "dataset": dataset})
            with quiet():
                evaluator = Evaluator(self.evaluator(split, dataset))
            evaluator.dataset_meta = dataset.metainfo
            first = dataset[0]["inputs"]
            fits = first.numel() * first.element_size() * len(dataset) <= MAX_CACHED_BYTES
            self._loaded[split] = list(loader) if fits else loader, evaluator
        return self._loaded[split]

    def evaluator(self, split: str, dataset: Any) -> Any:
        """Return the metric of the split, or the metric's config."""
        return self.config.test_evaluator

    @property
    def example(self) -> Tensor:
        """The first validation image and its mirror image, [2, 3, H, W], as the network's inputs."""
        batch = copy.deepcopy(next(iter(self.loaded("validation")[0])))
        image = self.network.data_preprocessor(batch)["inputs"][0]  # type: ignore[operator]
        return torch.stack([image, image.flip(-1)])

    def _put(self, state_dict: StateDict) -> None:
        try:
            self.network.load_state_dict(state_dict)
        except RuntimeError as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(f"the weights do not fit the network of '{self.params.config}': {message}") from error

    def main_metric_only(self, evaluator: Any) -> contextlib.AbstractContextManager[None]:
        """During the block, network and evaluator skip work that neither `metric` nor the answers need."""
        return contextlib.nullcontext()

    @torch.inference_mode()
    def _outputs(self, batches: Iterable[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """Yield batches, and the network's data samples for each batch."""
        for batch in batches:
            # The network writes its predictions into its input.
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
        # A loader draws a seed, and that must not change the later draws of a training.
        with torch.random.fork_rng(devices=[]), quiet():
            batches, evaluator = self.loaded(split)
            with self.main_metric_only(evaluator) if main_only else contextlib.nullcontext():
                for batch, outputs in self._outputs(batches):
                    evaluator.process(data_samples=outputs, data_batch=batch)
                    answers += [self.answer(sample) for sample in outputs]
                results = evaluator.evaluate(len(answers))
        numbers = {name.partition("/")[2] or name: float(value) for name, value in results.items()}
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
            truth, predicted = self.regions(sample, dataset.metainfo["classes"])
            image = batch["inputs"][0].permute(1, 2, 0).numpy()[..., ::-1]
            pictures.append(Picture(image.copy(), truth, predicted))
        return pictures


def _joined(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _class_counts(node: Any, where: str) -> Iterator[tuple[str, int]]:
    """Yield every `num_classes` in a config, with its key."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "num_classes":
            yield f"{where}.{key}", value
        else:
            yield from _class_counts(value, f"{where}.{key}")
