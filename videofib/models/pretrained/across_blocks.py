"""Weights of blocks that use the attention of earlier ones: which tensors go where in a model of such blocks."""

from __future__ import annotations

from torch import Tensor

from videofib.mixers.less_attention import LessAttention
from videofib.models.pretrained import skipat
from videofib.models.skip_attention import SkipAttention
from videofib.models.timesformer import TimeSformer

State = dict[str, Tensor]


def place_skip_networks(model: TimeSformer, state: State) -> tuple[State, dict[str, str]]:
    """SkipAt's networks in the model's blocks that skip attention; and what its own model never read, and why.

    Raises:
        ValueError: weights for more such blocks than the model has, or fewer.
    """
    if not isinstance(model.across, SkipAttention):
        raise ValueError("blocks of its model skip attention; set skip_attention to their indices")
    own, blocks = model.state_dict(), model.across.blocks
    state = skipat.fit_kernels(skipat.to_blocks(state, blocks), own)
    dead = {
        name: f"{_shape(state[name])}, which blocks that skip attention do not read"
        for name in skipat.dead(state, own, blocks)
    }
    return {name: tensor for name, tensor in state.items() if name not in dead}, dead


def keep_values(model: TimeSformer, state: State) -> dict[str, str]:
    """Where blocks transform the scores of others, values without queries and keys, in place; which, and how."""
    kept = {}
    for name in [f"blocks.{name}" for name, mixer in model.blocks.mixers().items() if isinstance(mixer, LessAttention)]:
        for kind in ("weight", "bias"):
            qkv = state.get(f"{name}.qkv.{kind}")
            if qkv is not None and f"{name}.v.{kind}" not in state and len(qkv) % 3 == 0:
                values = state[f"{name}.v.{kind}"] = qkv[2 * len(qkv) // 3 :]
                del state[f"{name}.qkv.{kind}"]
                kept[f"{name}.v.{kind}"] = f"{_shape(qkv)} -> {_shape(values)}, values without queries and keys"
    return kept


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
