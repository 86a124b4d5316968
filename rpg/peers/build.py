"""The generators that `model.generator` may put in RPG's place: `build_peer`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from rpg.peers.base import Peer, PeerConditions
from rpg.peers.d2nwg import D2NWG
from rpg.peers.flow import Flow
from rpg.peers.gaussian import Gaussian
from rpg.peers.p_diff import PDiff
from rpg.peers.sane import SANE

if TYPE_CHECKING:
    from rpg.config.model import ImagesCondition
    from rpg.config.peers import AnyPeer

KINDS: dict[str, type[Peer]] = {"gaussian": Gaussian, "p_diff": PDiff, "sane": SANE, "flow": Flow, "d2nwg": D2NWG}


def build_peer(
    params: "AnyPeer", padding_LD: Tensor, sizes: Mapping[str, int], images: "ImagesCondition | None" = None
) -> Peer:
    """Return the untrained generator of `params.kind`.

    `padding_LD` is True for entries of the L tokens that hold no weight; `sizes` maps each condition except `images` to
    its number of values.
    """
    return KINDS[params.kind](params, padding_LD, PeerConditions(sizes, images))
