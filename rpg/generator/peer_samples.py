"""What follows the sampling of some generators in RPG's place: BatchNorm's statistics, and selection.

Both read training images, and selection their labels, too.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rpg.generator.sample import Network, Request, sample_networks
from rpg.peers.base import Peer
from rpg.peers.sane import SANE
from rpg.tasks.base import Task
from rpg.tasks.loading import differentiable, recounted
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.utils.condition_requests import States

if TYPE_CHECKING:
    from rpg.config.experiment import Sample


def peer_networks(
    model: Peer,
    task: Task,
    table: ConditionTable,
    store: TokenStore,
    params: "Sample",
    requests: Sequence[Request],
    prompts: Tensor | None = None,
) -> Iterator[Network]:
    """Yield the network of each request, as the generator's block asks: recounted, and the best of several.

    `prompts` [N, S, K, F + 1] are the values of the condition `images`.
    """
    if not isinstance(model, SANE) or model.params.candidates == 1:
        yield from _recounted(model, task, sample_networks(model, table, store, params, requests, prompts=prompts))
        return
    padding_LD = store.layout.padding()
    # The states of a request → its best networks so far, with their scores.
    kept: dict[States | None, list[tuple[float, Network]]] = {}
    for number in range(model.params.rounds):
        drawn = [request for request in requests for _ in range(model.params.candidates)]
        networks = sample_networks(model, table, store, params, drawn, first=number * len(drawn))
        for (asked, _), network in zip(drawn, _recounted(model, task, networks), strict=True):
            kept.setdefault(asked, []).append((task.score(network[0], "train", network[2]), network))
        for asked, scored in kept.items():
            count = sum(other == asked for other, _ in requests)
            kept[asked] = sorted(scored, key=lambda pair: pair[0], reverse=True)[:count]
        best = [network for scored in kept.values() for _, network in scored]
        points = [store.tokenize(state_dict, states[0])[~padding_LD] for state_dict, states, _ in best]
        model.show(torch.stack(points), torch.tensor([states[0] for _, states, _ in best]))
    for asked, _ in requests:
        yield kept[asked].pop(0)[1]


def _recounted(model: Peer, task: Task, networks: Iterator[Network]) -> Iterator[Network]:
    """Yield the networks, with BatchNorm's statistics counted again if the generator's block asks for it."""
    known = differentiable(task)
    if not (model.params.recount and known and known.has_statistics):
        yield from networks
        return
    listed = (((states, code), one, code) for one, states, code in networks)
    yield from ((one, states, code) for (states, code), one in recounted(known, listed))
