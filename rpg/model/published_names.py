"""The one-to-one map from names in the published RPG's state dict to names in the preset `paper-rpg`.

The parameters of RPG here, in order: recurrent.positions, recurrent.conditions, recurrent.blocks.{0, 1},
denoiser.{time, condition, encoder, decoder}; inside a Mamba2 block the names are `mamba_ssm.Mamba2`'s own.
"""

import re

from torch import Tensor

# Regular expression for a published name → name here. The published state dict holds the denoiser three times; this
# map takes the copy under `criteria.net.`.
NAMES = (
    (r"to_permutation_state\.weight", r"recurrent.conditions.kinds.permutation_state.embedding.weight"),
    (r"to_condition\.(weight|bias)", r"recurrent.conditions.kinds.task_code.layers.\1"),
    # In the unseen-task experiment the task code goes through two layers.
    (r"get_condition\.0\.(weight|bias)", r"recurrent.conditions.kinds.task_code.layers.0.\1"),
    (r"to_condition_linear\.(weight|bias)", r"recurrent.conditions.kinds.task_code.layers.2.\1"),
    (r"model\.pe", r"recurrent.positions"),
    (r"model\.mamba_forward\.(\d+)\.(.+)", r"recurrent.blocks.\1.\2"),
    (r"criteria\.net\.time_embedder\.mlp\.(0|2)\.(.+)", r"denoiser.time.\1.\2"),
    (r"criteria\.net\.condi_embedder\.(weight|bias)", r"denoiser.condition.\1"),
    (r"criteria\.net\.(encoder|decoder)_list\.(\d+)\.0\.(.+)", r"denoiser.\1.\2.0.\3"),
    (r"criteria\.net\.(encoder|decoder)_list\.(\d+)\.1\.0\.(.+)", r"denoiser.\1.\2.1.0.\3"),
)
# [1, L, 1]: 1 for tokens that receive the task code, 0 for others. Without this tensor all tokens receive the code.
GATE = "to_condition_gate"
# Copies and constants in the published state dict that this code does not need.
DROPPED = (r"criteria\.net\.time_embedder\.freqs", r"criteria\.diffusion_(trainer|sampler)\..+")


def name_here(published: str) -> str | None:
    """Return the name here of a published tensor, or None for an unneeded one; ValueError without a counterpart."""
    if published == GATE or any(re.fullmatch(pattern, published) for pattern in DROPPED):
        return None
    for pattern, replacement in NAMES:
        if re.fullmatch(pattern, published):
            return re.sub(pattern, replacement, published)
    raise ValueError(f"published tensor '{published}' has no counterpart here")


def from_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a published state dict to the names here.

    Raises ValueError that names a tensor without a counterpart.
    """
    names = {name: name_here(name) for name in published}
    # Published positions carry a batch dimension, [1, L, M].
    return {
        here: published[name].squeeze(0) if name == "model.pe" else published[name]
        for name, here in names.items()
        if here
    }
