"""Token merging without training: alike patches become one (ToMe, Bolya et al., arXiv 2210.09461).

In each block, between attention and MLP, the patches are divided into two sets, every other one; each of the first set
finds the one of the second whose key is the most alike; and the r pairs that are the most alike are merged ::

    first    0  2  4  6          each finds one of the second set: 0 → 1, 2 → 3, 4 → 3, 6 → 7
    second   1  3  5  7          the r = 2 most alike merge, say 2 → 3 and 4 → 3; left are 0 6 1 3' 5 7,
                                 with 3' the mean of 2, 3 and 4, each counted by the patches it stands for

A merged token stands for several patches, so the keys of attention count as often ("proportional attention").

Axes: B batch, t frames, P prefix tokens, n patches that are left (of each frame in divided attention), H heads, D
width, C numbers of a token.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.mixers.dense_attention import DenseAttention
from videofib.models.blocks import GRID, SIZES, Block, Memory
from videofib.models.reduction import Reduction

Matching = tuple[Tensor, Tensor, Tensor]


def match(keys: Tensor, r: int) -> Matching:
    """Which tokens merge, by the cosine of their keys (section 3 of the paper): keys (B, n, C).

    Args:
        r: pairs to merge, at most n // 2.

    Returns:
        Positions within the first set of its tokens that are kept (B, a - r), in order, and of those that merge (B, r),
        and within the second set with which (B, r); a = ceil(n / 2) tokens are in the first set.
    """
    unit = F.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=-1)
    alike, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(dim=-1)
    order = alike.argsort(dim=-1, descending=True, stable=True)
    kept, merged = order[:, r:].sort(dim=-1).values, order[:, :r]
    return kept, merged, partner.gather(1, merged)


def merge(x: Tensor, sizes: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Means of the merged tokens, weighted by how many patches each stands for.

    Args:
        x: tokens (B, n, C).
        sizes: (B, n), 32 bits.
        matching: of the same tokens.

    Returns:
        (B, n - r, C), those of the first set that are kept, then the second set; and their sizes (B, n - r).
    """
    kept, merged, partner = matching
    rows = torch.cat((x * sizes[..., None].to(x.dtype), sizes[..., None].to(x.dtype)), dim=-1)
    first, second = rows[:, ::2], rows[:, 1::2]
    joined = second.scatter_add(1, _columns(partner, rows), first.gather(1, _columns(merged, rows)))
    rows = torch.cat((first.gather(1, _columns(kept, rows)), joined), dim=1)
    return rows[..., :-1] / rows[..., -1:], rows[..., -1].to(sizes.dtype)


def _columns(index: Tensor, rows: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, rows.shape[-1])


def merge_reference(x: Tensor, sizes: Tensor, keys: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The same as :func:`match` and :func:`merge`, token by token, to compare with; of one clip, (n, C) and so on."""
    n = len(x)
    pairs = []
    for i in range(0, n, 2):
        cosines = [float(F.cosine_similarity(keys[i], keys[j], dim=0)) for j in range(1, n, 2)]
        best = max(range(len(cosines)), key=cosines.__getitem__)
        pairs.append((cosines[best], i, 2 * best + 1))
    groups = {j: [j] for j in range(1, n, 2)}
    merging = sorted(pairs, key=lambda pair: -pair[0])[:r]
    for _, i, j in merging:
        groups[j].append(i)
    alone = [[i] for i in range(0, n, 2) if i not in [i for _, i, _ in merging]]
    left = [*alone, *groups.values()]
    counts = torch.stack([sizes[group].sum() for group in left])
    tokens = torch.stack([(sizes[group, None] * x[group]).sum(dim=0) for group in left])
    return tokens / counts[:, None], counts


class MergingAttention(nn.Module):
    """Dense attention of tokens that stand for several patches each; its state are their sizes and its keys.

    It takes the parameters of a trained layer, under the same names.

    Args:
        dense: the layer.

    Attributes:
        proportional: whether a key counts as often as its token stands for patches: its logit grows by the logarithm of
            that number (section 3, "Tracking Token Size").
    """

    proportional = True

    def __init__(self, dense: DenseAttention):
        super().__init__()
        self.head_dim = dense.proj.in_features // dense.num_heads
        self.num_heads, self.num_prefix_tokens, self.attn_drop = (
            dense.num_heads,
            dense.num_prefix_tokens,
            dense.attn_drop,
        )
        self.qkv, self.q_norm, self.k_norm = dense.qkv, dense.q_norm, dense.k_norm
        self.proj, self.proj_drop = dense.proj, dense.proj_drop

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B·f, P+n, H·D) -> the same, and a state {"sizes": (B, n) or None, "keys": (B·f, H, n, D)} of f frames."""
        sizes = state["sizes"] if state else None
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        bias = None
        if sizes is not None and self.proportional:
            bias = F.pad(sizes.log(), (self.num_prefix_tokens, 0)).to(q.dtype)
            bias = repeat(bias, "b n -> (b f) 1 1 n", f=x.shape[0] // bias.shape[0] if bias.shape[0] else 1)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=self.attn_drop if self.training else 0.0
        )
        keys = k[:, :, self.num_prefix_tokens :].detach()
        return self.proj_drop(self.proj(rearrange(out, "b h n d -> b n (h d)"))), {"sizes": sizes, "keys": keys}

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence of tokens: four products with weights, and scores and values of all pairs."""
        dim, tokens = self.proj.in_features, self.num_prefix_tokens + grid[0] * grid[1] * grid[2]
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim


class TokenMerging(Reduction):
    """Merges r pairs of patches within a block, behind its :class:`MergingAttention`: (B, P+n, D) -> (B, P+n-r, D).

    Where n is too small, n // 2 pairs merge. In divided attention r pairs of each frame merge, the same in all frames
    of a clip, by the mean of their cosines: so a token stands for the same positions in all frames, and attention over
    time stays what it is. This is ours; the paper has images.

    Args:
        r: pairs.
        order, num_prefix_tokens: how tokens lie; the prefix never merges.
        frames: whether frames are apart, as in divided attention.
        head_dim: numbers of a head's key.
    """

    keeps_places = False

    def __init__(self, r: int, *, order: str, num_prefix_tokens: int, frames: bool, head_dim: int):
        super().__init__()
        self.r, self.order, self.num_prefix_tokens = r, order, num_prefix_tokens
        self.frames, self.head_dim = frames, head_dim

    def grid_after(self, grid: Grid) -> Grid:
        length, tokens = self._split(grid)
        return (length, tokens - min(self.r, tokens // 2), 1)

    def _split(self, grid: Grid) -> tuple[int, int]:
        """Frames that are apart, and the tokens of each."""
        return (grid[0], grid[1] * grid[2]) if self.frames else (1, grid[0] * grid[1] * grid[2])

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        """(b, p+n, d) -> (b, p+n-r, d), and the memory with their grid and sizes."""
        (length, tokens), after = self._split(grid), self.grid_after(grid)
        if after[1] == tokens:
            return x, {**memory, "attn": {"sizes": memory["attn"]["sizes"]}}
        layout = f"b ({self.order}) d"
        axes = {"t": length, "h": tokens, "w": 1}
        keys = memory["attn"]["keys"].mean(dim=1)  # of the heads
        keys = F.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=-1)
        keys = rearrange(keys, "(b t) n d -> b n (t d)", t=length)  # whose products are sums over frames
        sizes = memory["attn"]["sizes"]
        if sizes is None:
            sizes = keys.new_ones(keys.shape[:2])
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        patches = rearrange(patches, f"{layout} -> b (h w) (t d)", **axes)
        patches, sizes = merge(patches, sizes, match(keys, tokens - after[1]))
        patches = rearrange(patches, f"b (h w) (t d) -> {layout}", t=length, w=1)
        all_sizes = repeat(sizes, f"b (h w) -> b ({self.order})", t=length, w=1)
        x = torch.cat((prefix, patches), dim=1)
        return x, {**memory, "attn": {"sizes": sizes}, GRID: after, SIZES: all_sizes}

    def multiply_adds(self, grid: Grid) -> int:
        """Of the cosines of the two sets of one sequence."""
        length, tokens = self._split(grid)
        return length * self.head_dim * (tokens // 2) * (tokens - tokens // 2)


def counting_patches(x: Tensor, memory: Memory, num_prefix_tokens: int) -> Tensor:
    """Tokens scaled so that their mean is that of the patches they stand for: (B, P+n, D) -> (B, P+n, D)."""
    if SIZES not in memory:
        return x
    sizes = memory[SIZES]
    scale = F.pad(sizes / sizes.mean(dim=1, keepdim=True), (num_prefix_tokens, 0), value=1.0)
    return x * scale[..., None].to(x.dtype)


def merge_tokens(model: Any, tokens: int, *, proportional: bool = True) -> Any:
    """Let every block of a TimeSformer merge so many pairs of patches; in place, and returned. No weight changes.

    Args:
        model: a :class:`~videofib.models.TimeSformer`, trained or not, with dense attention alone. Called again, it
            sets another number; 0 merges nothing.
        tokens: r, pairs that merge in each block: of a clip in joint attention, of each frame in the others.
        proportional: see :class:`MergingAttention`; off for models trained without it where that does better, such as
            those of masked autoencoders.

    Raises:
        ValueError: a number below 0, or a model that cannot merge tokens.
    """
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise ValueError(f"tokens to merge in each block must be a whole number from 0, got tokens={tokens!r}")
    if others := [name for name in model.mixers.used() if name not in ("dense", "none")]:
        raise ValueError(
            f"token merging compares the keys of dense attention, and this model has {', '.join(others)}; set its "
            "attention to 'dense', or merge no tokens"
        )
    if model.local_interaction != "none":
        raise ValueError(
            "merged tokens have no neighbours, and all blocks mix those of a patch; set local_interaction='none', got "
            f"{model.local_interaction!r}"
        )
    if len(model.reductions):
        raise ValueError("the model reduces its tokens already (reductions); it cannot merge them, too")
    model.tokens.check_all()
    for block in model.blocks:
        if isinstance(block, Block):
            attention = _merging(block.attn)
            attention.proportional = proportional
            block.attn = attention
            block.reduction = TokenMerging(
                tokens,
                order=model.order,
                num_prefix_tokens=model.num_prefix_tokens,
                frames=model.attention_type == "divided_space_time",
                head_dim=attention.head_dim,
            )
            block.train(block.training)  # also what is new
    return model


def _merging(attention: nn.Module) -> MergingAttention:
    return attention if isinstance(attention, MergingAttention) else MergingAttention(cast(DenseAttention, attention))
