"""Load a trained generator in RPG's place: `load_peer`."""

from pathlib import Path

import torch

from rpg.peers.base import Peer
from rpg.peers.build import build_peer
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import check_sizes, filled, maker, verified


def load_peer(folder: Path, store: TokenStore, on: torch.device) -> Peer:
    """Load the generator in `folder`, which `train_peer` wrote, for sampling; raises the errors of `load_rpg`."""
    config, path, table = verified(folder, store)
    assert config.model.generator
    check_sizes(path, config.model, maker(folder))
    peer = build_peer(config.model.generator, store.layout.padding(), table.sizes, config.model.images)
    return filled(peer, path, maker(folder)).to(on)
