"""A miniature experiment, small enough to run every layer of it in a few seconds, inside a temporary folder."""

import os
from pathlib import Path

import pytest
import yaml

from rpg.cli import main
from rpg.seeds import fix_arithmetic

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
        "seeds_per_shard": 2,
        "steps": 40,
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
        "flavor": "residual",
        "width": 32,
        "blocks": 1,
        "state_width": 16,
        "head_width": 16,
        "expand": 2,
        "hidden": 32,
        "denoiser_blocks": 1,
    },
    "diffusion": {"target": "x0"},
    "train": {
        "seed": 0,
        "steps": 40,
        "batch": 3,
        "diffusion_batch": 32,
        "learning_rate": 0.003,
        "warmup": 0.1,
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "ema": 0.9,
        "state_every": 10,
    },
    "sample": {"seed": 0, "count": 4, "solver": "dpm-solver++", "steps": 3},
}


def write_params(folder: Path, **blocks: dict) -> None:
    """params.yaml with one experiment, `mini`; `blocks` replaces or adds keys of its blocks."""
    experiment = {name: {**block, **blocks.get(name, {})} for name, block in MINIATURE.items()}
    tree = {"run": ["mini"], "data_root": None, "experiments": {"mini": experiment}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


def run_layers(folder: Path, *verbs: str) -> None:
    """Run `rpg <verb> --experiment mini` for each verb, in this process, with `folder` as working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for verb in verbs:
            main([verb] if verb == "tables" else [verb, "--experiment", "mini"])
    finally:
        os.chdir(before)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_arithmetic(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the miniature has run from zoo to tables; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    write_params(folder)
    run_layers(folder, "zoo", "collect", "tokens", "train", "sample", "score", "tables")
    return folder
