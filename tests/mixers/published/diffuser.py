"""Diffuser: self-attention over any directed graph, with padding, and what a post-norm layer adds.

Where the graph is a support, and nothing is padding, attention is the package's own; else a masked matrix.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from tests.mixers.published import Result
from videofib.attention import Support, sparse_attention
from videofib.mixers.diffuser import diffused_attention

SYSTEMS = ("diffuser",)
HOPS, ALPHA, NORM_EPS = 5, 0.1, 1e-5  # where a file does not say otherwise
PADDED = -10000.0  # the logit of a pair with padding; it keeps rows of padding alone finite


def compute(case):
    config, state = case.config, {name: tensor.requires_grad_() for name, tensor in case.state.items()}
    heads = config["num_heads"]
    attend = chosen_attend(case.arrays["__adjacency"], case.arrays.get("__attention_mask"), heads)
    mix, finish = {
        "DiffuserSelfAttention": ("", []),
        "DiffuserAttention": ("self.", ["output."]),
        "DiffuserLayer": ("attention.self.", ["attention.output.", "intermediate.", "output."]),
    }[config["module"]]
    x = case.inputs["input"]
    q, k, v = (
        rearrange(linear(state, f"{mix}{name}", x), "b n (h d) -> b h n d", h=heads)
        for name in ("query", "key", "value")
    )
    y = diffused_attention(attend, q, k, v, hops=config.get("hops", HOPS), alpha=config.get("alpha", ALPHA))
    y = rearrange(y, "b h n d -> b n (h d)")
    residual = x
    for name in finish:
        y = linear(state, f"{name}dense", y)
        if name == "intermediate.":
            y = F.gelu(y)
        else:
            y = residual = F.layer_norm(
                residual + y,
                y.shape[-1:],
                state[f"{name}LayerNorm.weight"],
                state[f"{name}LayerNorm.bias"],
                config.get("layer_norm_eps", NORM_EPS),
            )
    return Result({"output": y}, state)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def chosen_attend(adjacency, attention_mask, heads):
    """Attention over the graph, indexed [key, query]; negative numbers of the (B, N) mask are padding."""
    padding = torch.zeros(1, len(adjacency), dtype=torch.bool)
    if attention_mask is not None:
        padding = torch.from_numpy(attention_mask < 0).reshape(len(attention_mask), -1)
    seen = torch.from_numpy(adjacency.T != 0)  # of each query the keys
    support = support_of(seen, heads)
    if support is not None and seen.any(1).all() and not padding.any():
        return lambda q, k, v: sparse_attention(q, k, v, support)
    either = padding[:, :, None] | padding[:, None, :]

    def attend(q, k, v):
        logits = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(either[:, None], PADDED)
        some = seen.any(1, keepdim=True)
        return (logits.masked_fill(~seen & some, -torch.inf).softmax(-1) * some) @ v  # zeros for a query without keys

    return attend


def support_of(seen, heads):
    """The support whose mask is ``seen`` (N, N) in every head, or None."""
    full = (seen.all(0) & seen.all(1)).numpy()
    prefix = len(full) if full.all() else int(np.argmin(full))
    patches = seen[prefix:, prefix:]
    if not len(patches):
        return Support.dense(heads, len(full), num_prefix_tokens=0)
    offsets = tuple(patches[0].nonzero().flatten().tolist())
    support = Support((offsets,) * heads, len(patches), prefix)
    return support if torch.equal(support.to_mask()[0], seen) else None
