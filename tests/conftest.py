"""A miniature experiment, small enough to run every stage of it in a few seconds, inside a temporary folder."""

import copy
import os
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import fuzzing  # noqa: F401 - its profiles can be named on the command line
import pytest
import torch
import yaml
from torch import Tensor, nn

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.data import scenes as data_scenes
from rpg.model.rpg import RPG
from rpg.tasks.base import Task
from rpg.tasks.commonsense.config import CommonsenseTask
from rpg.tasks.detection.config import DetectionTask
from rpg.tasks.loading import load_task
from rpg.tasks.segmentation.config import SegmentationTask
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import build
from rpg.utils.files import read_tensors
from rpg.utils.rng import fix_arithmetic

if TYPE_CHECKING:
    from rpg.tasks.commonsense.task import Commonsense

# Typer writes help with colors where one of these is set, whatever its value.
for name in ("PY_COLORS", "FORCE_COLOR"):
    os.environ.pop(name, None)
ROOT = Path(__file__).parent.parent

MINIATURE = {
    "task": {
        "kind": "classification",
        "data": "digits",
        "resolution": 8,
        "network": {
            "name": "resnet18",
            "arguments": {
                "in_chans": 1,
                "num_classes": 10,
                "layers": [1, 1, 1, 1],
                "channels": [4, 4, 4, 8],
                "stem_type": "deep",
                "stem_width": 4,
            },
        },
    },
    "zoo": {
        "seeds": [0, 1, 2],
        "runs_per_shard": 2,
        "together": 1,
        "steps": 40,
        "head_steps": 0,
        "focal_gamma": 0.0,
        "batch": 64,
        "learning_rate": 0.01,
        "final_learning_rate": 0.001,
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "shift": 1,
        "saves": 2,
        "save_every": 2,
    },
    "tokens": {"width": 64},
    "model": {
        "conditions": [{"kind": "permutation_state", "reach": "all", "dropout": 0.0}],
        "backbone": {
            "kind": "mamba2",
            "width": 32,
            "positions": ["2d", "learned"],
            "blocks": 1,
            "state_width": 16,
            "head_width": 16,
            "expand": 2,
        },
        "denoiser": {"kind": "mlp", "hidden": 32, "blocks": 1},
        "start": "zero",
    },
    "diffusion": {"target": "x0"},
    "train": {
        "seed": 0,
        "steps": 40,
        "batch": 3,
        "diffusion_batch": 32,
        "times": 8,
        "draws": 1,
        "sharded": False,
        "learning_rate": 0.003,
        "warmup": 0.1,
        "weight_decay": 0.0,
        "optimizer": "adamw",
        "betas": [0.9, 0.999],
        "gradient_clip": 1.0,
        "precision": "float32",
        "checkpointing": False,
        "ema": 0.9,
        "state_every": 10,
    },
    "sample": {"seed": 0, "count": 4, "solver": "dpm-solver++", "steps": 3, "temperature": 1.0, "between": 0},
    "novelty": {"seed": 0, "networks": 6, "noise": [0.1, 1.0]},
}


# The miniature with task codes and with every layer that an experiment may lack.
OPTIMIZATION = {
    key: MINIATURE["train"][key]
    for key in (
        "seed",
        "warmup",
        "weight_decay",
        "optimizer",
        "betas",
        "gradient_clip",
        "precision",
        "checkpointing",
        "ema",
    )
}
TASKS = {
    **MINIATURE,
    "task": {
        **MINIATURE["task"],
        "kind": "task_codes",
        "network": {
            "name": "resnet18",
            "arguments": {**MINIATURE["task"]["network"]["arguments"], "num_classes": 2},
        },
        "seen": 6,
        "draw": 0,
        "held_out": [314, 482],
        "held_out_pairs": 2,
    },
    "base": {"seeds": [5, 6], "steps": 60, "batch": 64, "learning_rate": 0.01, "weight_decay": 0.01, "shift": 0},
    "zoo": {**MINIATURE["zoo"], "seeds": [0, 1], "runs_per_shard": 1024, "together": 3, "steps": 20, "saves": 1},
    "model": {
        **MINIATURE["model"],
        "conditions": [
            {"kind": "permutation_state", "reach": "each", "dropout": 0.0},
            {"kind": "task_code", "hidden": 16, "reach": "all"},
        ],
    },
    "tune": {
        **OPTIMIZATION,
        "steps": 20,
        "learning_rate": 0.001,
        "state_every": 10,
        "networks": 4,
        "images": 16,
        "loss": "labels",
        "statistics": None,
        "diffusion_batch": 16,
        "times": None,
        "diffusion": 0.1,
        "between": 0.0,
    },
    "hypernetwork": {
        **OPTIMIZATION,
        "steps": 20,
        "learning_rate": 0.001,
        "state_every": 10,
        "networks": 2,
        "images": 16,
        "loss": "labels",
        "statistics": 1.0,
        "start": "mean",
    },
    "sample": {**MINIATURE["sample"], "count": 3, "seen": 6},
}  # fmt: skip
# The miniature with task codes, whose RPG sees images in place of the code.
SHOWN = {
    **TASKS,
    "task": {**TASKS["task"], "held_out_pairs": 0},
    "base": {**TASKS["base"], "seeds": [5]},
    "zoo": {**TASKS["zoo"], "seeds": [0]},
    "model": {
        **TASKS["model"],
        "conditions": [
            {"kind": "permutation_state", "reach": "all", "dropout": 0.0},
            {"kind": "images", "features": 18, "hidden": 16, "reach": "all"},
        ],
    },
    "train": {**TASKS["train"], "steps": 0},
    "sample": {**TASKS["sample"], "images": 2},
    "prompts": {
        "seed": 0,
        "prompts": 2,
        "images": [1, 3],
        "data": ["mnist"],
        "steps": [2],
        "epochs": [1],
        "batch": 4,
        "learning_rate": 0.001,
        "refinement": 2,
        "refinement_rate": 0.01,
    },
}
TASKS_LAYERS = ("base", "zoo", "collect", "tokens", "train", "tune", "hypernetwork", "sample", "score", "novelty")


# What params.yaml has beside `run` and the experiments.
SETTINGS: dict = {"data_root": None, "language_model": None, "ablations": {}}


def write_tree(folder: Path, **experiments: dict) -> None:
    """params.yaml with these experiments."""
    tree = {**SETTINGS, "run": list(experiments), "experiments": experiments}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


def write_params(folder: Path, **blocks: dict) -> None:
    """params.yaml with one experiment, `mini`; `blocks` replaces or adds keys of its blocks."""
    experiment = {name: {**block, **blocks.get(name, {})} for name, block in MINIATURE.items()}
    write_tree(folder, mini=experiment)


def run_layers(folder: Path, *verbs: str, experiment: str = "mini") -> None:
    """Run `rpg <verb> --experiment NAME` for each verb, in this process, with `folder` as working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # The folder may hold a copy of the code that this process runs.
        patch.setattr("rpg.config.loading.check_checkout", lambda: None)
        for verb in verbs:
            main([verb] if verb in ("tables", "ablations", "report") else [verb, "--experiment", experiment])


@pytest.fixture(autouse=True)
def _same_each_time() -> None:
    """One thread, and networks and inputs of tests that are the same in each run."""
    fix_arithmetic(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _modules_anew(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The modules that a test writes and imports are its own, as those of a process are."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    written = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    for name, module in [*sys.modules.items()]:
        spec = getattr(module, "__spec__", None)
        # A folder without __init__.py is a module without a file. torch.classes makes up attributes.
        places = [spec.origin, *(spec.submodule_search_locations or ())] if isinstance(spec, ModuleSpec) else []
        if any(str(place).startswith(written) for place in places):
            del sys.modules[name]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the miniature has run from zoo to tables; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    write_params(folder)
    run_layers(folder, "zoo", "collect", "tokens", "train", "sample", "score", "novelty", "tables")
    return folder


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, for the miniature with task codes, `tasks`."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tree(folder, tasks=TASKS)
    run_layers(folder, *TASKS_LAYERS, "tables", experiment="tasks")
    return folder


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, for the miniature that sees images, `shown`."""
    folder = tmp_path_factory.mktemp("shown")
    write_tree(folder, shown=SHOWN)
    run_layers(folder, *TASKS_LAYERS, "prompts", "tables", experiment="shown")
    return folder


def pack_in(folder: Path, name: str, out: Path, *options: str) -> Path:
    """Pack the generator of an experiment in `folder`, and return `out`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["pack", "--experiment", name, "--out", str(out), *options])
    return out


@pytest.fixture(scope="session")
def packed_tasks(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed generator of `tasks`, without a graph; tests read it and leave it as it is."""
    return pack_in(tasks, "tasks", tmp_path_factory.mktemp("packed") / "packed", "--no-graph")


@pytest.fixture(scope="session")
def packed_graph(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `packed_tasks`, with the graph."""
    return pack_in(tasks, "tasks", tmp_path_factory.mktemp("graph") / "packed")


@pytest.fixture
def taken(packed_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `packed_tasks`, away from the checkout."""
    folder = Path(shutil.copytree(packed_tasks, tmp_path / "packed"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts have the same names in the same order, and the same values."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# Two miniatures of different widths, a third one that is never trained, and a joint RPG of the first two.
JOINT = {
    "members": ["narrow", "wide"],
    "unseen": ["middle"],
    "recipe": "narrow",
    "changes": {"model.backbone.positions": ["2d", "learned", "described"]},
    "seeds": [0, 1],
    "across": True,
}


def of_width(width: int) -> dict:
    """The miniature with a width, and GroupNorm, whose tokens hold one output channel each."""
    experiment = copy.deepcopy(MINIATURE)
    arguments = experiment["task"]["network"]["arguments"]
    arguments |= {"channels": [width] * 4, "stem_width": width // 2, "layers": [1, 1, 0, 0], "norm_layer": "groupnorm1"}
    experiment["zoo"] |= {"seeds": [0, 1]}
    experiment["tokens"] = {"width": 80, "by_channel": True}
    experiment["train"] |= {"steps": 20}
    experiment["tune"] = {**TASKS["tune"], "steps": 10}
    return experiment


def joint_tree(**changes: object) -> dict:
    """params.yaml with the three widths and the joint experiment `both`, whose keys `changes` replace."""
    experiments = {name: of_width(width) for name, width in (("narrow", 4), ("middle", 6), ("wide", 8))}
    return {**SETTINGS, "run": ["narrow"], "experiments": experiments, "joint": {"both": {**JOINT, **changes}}}


@pytest.fixture(scope="session")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both members and the joint RPG have run; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("joined")
    (folder / "params.yaml").write_text(yaml.safe_dump(joint_tree()))
    for name in ("narrow", "wide"):
        run_layers(folder, "zoo", "collect", "tokens", "train", "tune", "sample", "score", experiment=name)
    run_layers(folder, "joint", experiment="both")
    return folder


# Of the miniatures whose zoo fine-tunes a base network.
BASE_LAYERS = ("base", "zoo", "collect", "tokens", "train", "sample", "score", "novelty", "tables")


# A segmentation of a few scenes; its networks have learned next to nothing.
SCENES = {
    **MINIATURE,
    "task": {
        "kind": "segmentation",
        "data": "scenes",
        "config": str(ROOT / "workflow/configs/scenes-upernet.py"),
        "overrides": {"train_dataloader.batch_size": 4},
        "validation": 2,
    },
    "base": {"seeds": [0], "steps": 2, "overrides": {}},
    "zoo": {
        "seeds": [0, 1],
        "runs_per_shard": 2,
        "steps": 0,
        "saves": 2,
        "save_every": 1,
        "overrides": {"optim_wrapper.optimizer.lr": 0.001},
    },
    "tokens": {"width": 2048},
    "train": {**MINIATURE["train"], "steps": 10, "batch": 2},
    "sample": {**MINIATURE["sample"], "count": 3},
    "novelty": {"seed": 0, "networks": 2, "noise": [0.1]},
}


def run_scenes(folder: Path, name: str, experiment: dict, *layers: str) -> Path:
    """Run the layers of an experiment on a few scenes in `folder`, and return the folder."""
    write_tree(folder, **{name: experiment})
    with pytest.MonkeyPatch.context() as patch:
        for number, count in FEW.items():
            patch.setattr(data_scenes, number, count)
        run_layers(folder, *layers, experiment=name)
    return folder


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, for `SCENES`."""
    return run_scenes(tmp_path_factory.mktemp("found"), "scenes", SCENES, *BASE_LAYERS)


# A detector of a few scenes, as `SCENES`.
BOXES = {
    **SCENES,
    "task": {**SCENES["task"], "kind": "detection", "config": str(ROOT / "workflow/configs/scenes-vitdet.py")},
}


@pytest.fixture(scope="session")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `BOXES` has run from zoo to training."""
    layers = ("base", "zoo", "collect", "tokens", "train")
    return run_scenes(tmp_path_factory.mktemp("detectors"), "boxes", BOXES, *layers)


# Adapters of a language model that has read next to nothing of the world of facts.
ADAPTERS = {
    **MINIATURE,
    "task": {
        "kind": "commonsense",
        "data": "facts",
        "model": "results/adapters/base/0000",
        "revision": None,
        "adapter": {"kind": "dora", "rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]},
        "training": ["ft-training_set/facts.json"],
        "validation": 16,
        "subtasks": ["boolq", "social_i_qa"],
        "batch": 20,
        "beams": 1,
        "new_tokens": 3,
    },
    "base": {
        "seeds": [0],
        "width": 32,
        "hidden": 64,
        "blocks": 1,
        "heads": 2,
        "steps": 100,
        "batch": 16,
        "learning_rate": 0.01,
        "warmup": 5,
        "betas": [0.9, 0.98],
        "weight_decay": 0.0,
    },
    "zoo": {
        "seeds": [0, 1],
        "runs_per_shard": 2,
        "steps": 60,
        "saves": 2,
        "save_every": 5,
        "batch": 8,
        "learning_rate": 0.05,
        "final_learning_rate": 0.0,
        "warmup": 2,
        "betas": [0.9, 0.999],
        "weight_decay": 0.0,
        "dropout": 0.0,
        "learn_prompt": False,
        "length": 64,
    },
    "tokens": {"width": 64, "canonical": True},
    "sample": {**MINIATURE["sample"], "count": 3},
    "novelty": {"seed": 0, "networks": 2, "noise": [0.1]},
}

# An adapter for each task, and questions that ask for one.
ASKED = {
    **ADAPTERS,
    "task": {
        **{key: of for key, of in ADAPTERS["task"].items() if key not in ("training", "subtasks")},
        "kind": "adapter_tasks",
        "data": "fact_tasks",
        "model": "results/asked/base/0000",
        "adapter": {"kind": "lora", "rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]},
        "seen": ["size-bigger-truth", "size-bigger-choice", "home-of-truth", "home-of-blank"],
        "held_out": ["home-of-choice", "speed-faster-truth"],
        "validation": 6,
    },
    "zoo": {**ADAPTERS["zoo"], "seeds": [0], "runs_per_shard": 6, "steps": 20, "saves": 1},
    "model": {
        **MINIATURE["model"],
        "start": "mean",
        "conditions": [
            {"kind": "permutation_state", "reach": "all", "dropout": 0.0},
            {"kind": "text", "encoder": None, "hidden_states": [0, 1], "features": 64, "hidden": 16, "reach": "all"},
        ],
    },
    "train": {**MINIATURE["train"], "steps": 0},
    "tune": {**TASKS["tune"], "images": 4, "statistics": None},
    "hypernetwork": {**TASKS["hypernetwork"], "images": 4, "statistics": None},
    "sample": {**MINIATURE["sample"], "count": 1, "seen": 4, "questions": 5},
    "prompts": {
        "seed": 0,
        "prompts": 2,
        "questions": [1, 4],
        "new": ["speed-faster-truth"],
        "examples": [4],
        "nearest": 2,
    },
}


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, for the miniature that sees questions, `asked`."""
    folder = tmp_path_factory.mktemp("asked")
    write_tree(folder, asked=ASKED)
    run_layers(folder, *TASKS_LAYERS, "prompts", "tables", experiment="asked")
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, for `ADAPTERS`."""
    folder = tmp_path_factory.mktemp("adapters")
    write_tree(folder, adapters=ADAPTERS)
    run_layers(folder, *BASE_LAYERS, experiment="adapters")
    return folder


def adapters_task(**changes: object) -> "Commonsense":
    """The task of `ADAPTERS`, with other params."""
    return cast("Commonsense", load_task(CommonsenseTask.model_validate({**ADAPTERS["task"], **changes}), None))


def sampled_adapter(folder: Path, index: int = 0) -> dict[str, Tensor]:
    """A sample of the experiment in `folder`, results/adapters."""
    return read_tensors(folder / f"samples/{index:04d}/adapter_model.safetensors")


# A zoo that was trained elsewhere, of two runs, and the module that builds and scores its networks.
GIVEN = {
    **MINIATURE,
    "task": {"kind": "custom", "build": "theirs.network:build", "score": "theirs.network:score", "metric": "accuracy"},
    "zoo": {"runs": ["zoo/a", "zoo/b"], "runs_per_shard": 1},
    "tokens": {"width": 32},
    "sample": {**MINIATURE["sample"], "count": 3},
    "novelty": {"seed": 0, "networks": 3, "noise": [0.1]},
}
THEIRS = """
import torch
from torch import nn
from theirs.data import points

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

def score(network, split):
    inputs, labels = points(split)
    return network(inputs).argmax(1), labels
"""
POINTS = """
import torch

def points(split):
    draw = torch.Generator().manual_seed(["validation", "test"].index(split))
    inputs = torch.randn(60, 4, generator=draw)
    return inputs, inputs[:, :3].argmax(1)
"""


def write_given(folder: Path) -> None:
    """What `GIVEN` reads: the package `theirs` and three checkpoints of each run, whose names count up to ten."""
    (folder / "theirs").mkdir(parents=True, exist_ok=True)
    (folder / "theirs/network.py").write_text(THEIRS)
    (folder / "theirs/data.py").write_text(POINTS)
    for seed, run in enumerate(GIVEN["zoo"]["runs"]):
        (folder / run).mkdir(parents=True, exist_ok=True)
        draw = torch.Generator().manual_seed(seed)
        first, last = torch.randn(8, 4, generator=draw), torch.randn(3, 8, generator=draw)
        for epoch in (8, 9, 10):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
            state = network.state_dict()
            state |= {"0.weight": first + epoch / 100, "3.weight": last, "0.bias": torch.full((8,), 0.1 * epoch)}
            torch.save(state, folder / run / f"epoch-{epoch}.pth")


# The published architecture, small enough for the miniature.
PAPER = {
    "conditions": [{"kind": "permutation_state", "reach": "all", "dropout": 0.0}],
    "backbone": {
        "kind": "paper",
        "width": 32,
        "state_width": 16,
        "head_width": 16,
        "expand": 2,
        "prototype_projection": False,
    },
    "denoiser": {"kind": "convolution", "channels": [1, 4, 6, 8, 6, 4, 1], "kernel": 7},
    "start": "zero",
}


def new_model(folder: Path) -> RPG:
    """A new model for the tokens of the miniature in `folder`, with states and running statistics of its own."""
    experiment = load_params(folder / "params.yaml").experiment("mini")
    torch.manual_seed(1)
    found = build(experiment.model, experiment.diffusion, TokenStore(folder / "results/mini/tokens"))
    with torch.no_grad():
        for name, tensor in found.state_dict().items():
            if name.endswith(("running_mean", "running_var", "embedding.weight")):
                tensor.uniform_(0.5, 1.5)
    return found.eval()


def published(model: RPG, bias: float = 0.25) -> dict[str, Tensor]:
    """The model's weights as published where there are no task codes: `to_condition` has a bias that always counts."""
    w = model.state_dict()
    tree = {"model.pe": w.pop("recurrent.positions")[None].clone()}
    states = w.pop("recurrent.conditions.kinds.permutation_state.embedding.weight")
    tree["to_permutation_state.weight"] = states - bias
    tree["to_condition.weight"] = torch.full((states.shape[1], 1), 7.0)
    tree["to_condition.bias"] = torch.full((states.shape[1],), bias)
    tree["criteria.net.time_embedder.freqs"] = torch.ones(128)
    for name, tensor in w.items():
        kind, part, rest = name.split(".", 2)
        if part == "conditions":
            continue
        if kind == "recurrent":
            tree[f"model.mamba_forward.{rest}"] = tensor
            continue
        new = {"time": "time_embedder.mlp", "condition": "condi_embedder"}.get(part, f"{part}_list")
        tree[f"criteria.net.{new}.{rest}"] = tensor
        tree[f"criteria.diffusion_sampler.model.{new}.{rest}"] = tensor
    return {name: tensor.detach().clone() for name, tensor in tree.items()}


# Scenes to train on, of validation and to test on.
FEW = {"TRAIN": 20, "VALIDATION": 2, "TEST": 10}


@pytest.fixture
def scenes(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Path:
    """A working directory with a few scenes: twenty to train on, two of validation and ten to test on."""
    for name, count in FEW.items():
        monkeypatch.setattr(data_scenes, name, count)
    # One for all tests: the scenes are written once.
    folder = tmp_path_factory.getbasetemp() / "scenes"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def openmmlab_task(kind: str, **changes: object) -> Task:
    """The task of the default experiment of that kind, on `scenes`, with other params."""
    name = {"segmentation": "scenes-upernet", "detection": "scenes-vitdet"}[kind]
    block = {"kind": kind, "data": "scenes", "config": str(ROOT / f"workflow/configs/{name}.py"), "overrides": {}}
    block_class = {"segmentation": SegmentationTask, "detection": DetectionTask}[kind]
    return load_task(block_class.model_validate({**block, "validation": 2, **changes}), None)
