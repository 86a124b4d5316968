"""Generators in RPG's place, written from their papers, to compare RPG with on the same zoo: `model.generator`."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rpg.config.peers import PeerParams
    from rpg.peers.base import Peer
    from rpg.tokenizer.layout import Layout

# Kind of generator → its module and class.
KINDS = {
    "gaussian": ("rpg.peers.gaussian", "Gaussian"),
    "p_diff": ("rpg.peers.p_diff", "PDiff"),
    "sane": ("rpg.peers.sane", "SANE"),
    "flow": ("rpg.peers.flow", "Flow"),
    "d2nwg": ("rpg.peers.d2nwg", "D2NWG"),
}


def build_peer(params: "PeerParams", layout: "Layout", sizes: Mapping[str, int]) -> "Peer":
    """Return the untrained generator of `params.kind`; `sizes` maps each condition to its number of values."""
    module, name = KINDS[params.kind]  # type: ignore[attr-defined]
    peer: Peer = getattr(import_module(module), name)(params, layout, sizes)
    return peer
