"""Generators in RPG's place, at the size of the miniature."""

from pathlib import Path
from typing import Any

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.config.params import _changed

COMMON = {"align": False, "recount": False}
PEERS: dict[str, dict[str, Any]] = {
    "gaussian": {"kind": "gaussian", **COMMON},
    "p_diff": {
        **{"kind": "p_diff", **COMMON, "channels": [4, 4], "kernel": 5, "stride": 3, "denoiser": [4, 8]},
        **{"input_noise": 0.001, "latent_noise": 0.01, "autoencoder": 0.5, "solver": "ddim", "steps": 3},
    },
    "sane": {
        **{"kind": "sane", **COMMON, "width": 16, "blocks": 1, "heads": 2, "latent": 8, "contrast": 0.1},
        **{"temperature": 0.1, "views": 4, "bandwidth": 0.1, "candidates": 1, "rounds": 1},
    },
    "flow": {
        "kind": "flow",
        **COMMON,
        "components": 4,
        "hidden": 16,
        "blocks": 1,
        "source": 0.01,
        "path": 0.001,
        "steps": 4,
    },
    "d2nwg": {
        **{"kind": "d2nwg", **COMMON, "hidden": 16, "latent": 4, "kl": 0.0001, "width": 16, "blocks": 1},
        **{"autoencoder": 0.5, "solver": "ddim", "steps": 3},
    },
}


def with_peer(finished: Path, kind: str, steps: int = 20, **keys: Any) -> Experiment:
    """The miniature with another generator; `keys` replace keys of its block."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    return _changed(experiment, {"model.generator": {**PEERS[kind], **keys}, "train.steps": steps}, "peers")
