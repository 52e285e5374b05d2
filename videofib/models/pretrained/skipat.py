"""SkipAt's weights (arXiv 2301.02240): a ViT of timm, and beside its blocks the networks ``param_1`` to ``param_6``.

    blocks.0.attn.qkv.weight         as timm's, also of blocks that skip attention, where nothing reads them
    param_2.linear1.0.weight         of the second skipped block -> blocks.4.skip.fc1.weight

Which blocks are skipped the weights do not say: they are those of the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from videofib.models.local_interaction import inflate_kernel

State = dict[str, Tensor]

_NETWORK = re.compile(r"param_(\d+)\.(linear1\.0|dwconv\.0|linear2\.0|eca\.conv)\.(weight|bias)")
_PARTS = {"linear1.0": "fc1", "dwconv.0": "dwconv", "linear2.0": "fc2", "eca.conv": "eca"}


def is_skipat(state: State) -> bool:
    """Whether a state dict has SkipAt's networks, under their names."""
    return "param_1.linear1.0.weight" in state


def to_blocks(state: State, blocks: Sequence[int]) -> State:
    """The networks under the names of the blocks that skip attention; networks of more blocks keep their names.

    Raises:
        ValueError: fewer networks than such blocks.
    """
    networks = {int(match[1]) for name in state if (match := _NETWORK.fullmatch(name))}
    if len(networks) < len(blocks):
        raise ValueError(
            f"it has networks for {len(networks)} blocks that skip attention, and this model skips "
            f"{list(blocks)}; set skip_attention to the blocks it was trained with"
        )
    renamed = {}
    for name, tensor in state.items():
        match = _NETWORK.fullmatch(name)
        if match and 0 < int(match[1]) <= len(blocks):
            name = f"blocks.{blocks[int(match[1]) - 1]}.skip.{_PARTS[match[2]]}.{match[3]}"
        renamed[name] = tensor
    return renamed


def fit_kernels(state: State, own: State) -> State:
    """Kernels of frames at the centre of the model's, where these span several: (c, 1, h, w) -> (c, 1, t, h, w)."""
    inflated = {
        name: inflate_kernel(tensor, own[name].shape[2])
        for name, tensor in state.items()
        if name.endswith(".skip.dwconv.weight") and name in own and (tensor.ndim, own[name].ndim) == (4, 5)
    }
    return state | inflated


def dead(state: State, own: State, blocks: Sequence[int]) -> list[str]:
    """Names of what the published model holds and never reads.

    It is the attention of skipped blocks with its norm, and networks of more blocks than are skipped.
    """
    unread = re.compile(rf"blocks\.({'|'.join(map(str, blocks))})\.(norm1|attn)\..*")
    return [name for name in state if name not in own and (unread.fullmatch(name) or _NETWORK.fullmatch(name))]
