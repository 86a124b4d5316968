"""Name map between the published RPG's state dict and that of the preset `paper-rpg`, one to one.

Parameters of RPG here, in order: recurrent.positions, recurrent.conditions, recurrent.blocks.{0, 1},
denoiser.{time, condition, encoder, decoder}; inside a Mamba2 block the names are `mamba_ssm.Mamba2`'s own.
"""

import re

from torch import Tensor

# Regular expression over a published name → name here. The denoiser stands three times in the published state dict;
# the copy under `criteria.net.` is taken.
NAMES = (
    (r"to_permutation_state\.weight", r"recurrent.conditions.kinds.permutation_state.embedding.weight"),
    (r"to_condition\.(weight|bias)", r"recurrent.conditions.kinds.task_code.layers.\1"),
    # Of the unseen-task experiment, whose task code goes through two layers.
    (r"get_condition\.0\.(weight|bias)", r"recurrent.conditions.kinds.task_code.layers.0.\1"),
    (r"to_condition_linear\.(weight|bias)", r"recurrent.conditions.kinds.task_code.layers.2.\1"),
    (r"model\.pe", r"recurrent.positions"),
    (r"model\.mamba_forward\.(\d+)\.(.+)", r"recurrent.blocks.\1.\2"),
    (r"criteria\.net\.time_embedder\.mlp\.(0|2)\.(.+)", r"denoiser.time.\1.\2"),
    (r"criteria\.net\.condi_embedder\.(weight|bias)", r"denoiser.condition.\1"),
    (r"criteria\.net\.(encoder|decoder)_list\.(\d+)\.0\.(.+)", r"denoiser.\1.\2.0.\3"),
    (r"criteria\.net\.(encoder|decoder)_list\.(\d+)\.1\.0\.(.+)", r"denoiser.\1.\2.1.0.\3"),
)
# 1 for the tokens that are told the task code, 0 for the others, [1, L, 1]; without it all tokens are told.
GATE = "to_condition_gate"
# Copies and constants of the published state dict that nothing here needs.
DROPPED = (r"criteria\.net\.time_embedder\.freqs", r"criteria\.diffusion_(trainer|sampler)\..+")


def name_here(published: str) -> str | None:
    """The name here of a published tensor, None if nothing here needs it; ValueError if it has no counterpart."""
    if published == GATE or any(re.fullmatch(pattern, published) for pattern in DROPPED):
        return None
    for pattern, replacement in NAMES:
        if re.fullmatch(pattern, published):
            return re.sub(pattern, replacement, published)
    raise ValueError(f"published tensor '{published}' has no counterpart here")


def from_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the published architecture here, from a published one.

    ValueError names a tensor without a counterpart.
    """
    names = {name: name_here(name) for name in published}
    # Published positions carry a batch dimension, [1, L, M].
    return {
        here: published[name].squeeze(0) if name == "model.pe" else published[name]
        for name, here in names.items()
        if here
    }
