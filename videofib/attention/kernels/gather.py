"""Sparse attention in plain PyTorch: each diagonal is a pair of shifted slices.

For an offset o, queries o..N-1 see keys 0..N-o-1 and the other way round, so a diagonal's N - o logits are one
product of two slices, with no index tensor and no N x N tensor: time and memory are O(N · offsets).

    keys     k0 k1 k2 k3 k4 k5 k6
    queries        q0 q1 q2 q3 q4 q5 q6        offset 2: q[2:] · k[:-2]

Shapes below: B batch, N patches, D head_dim, P prefix tokens, S segments of one head. Heads are computed one at a time,
with logits of shape (S + P, B, N): one contiguous row for each diagonal, softmax over the first axis.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import autocast
from videofib.attention.kernels import FIRST_DERIVATIVES_ONLY
from videofib.attention.support import Segment, Support


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`; 16-bit inputs are computed in 32 bits. No dropout under
    ``zero_logit``, where masked keys share one weight."""
    work = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    with autocast.disabled(q.device.type):
        p = support.num_prefix_tokens
        out = _Diagonals.apply(q.to(work) * scale, k.to(work), v.to(work), support, masking == "zero_logit", dropout_p)
        if p:
            out = torch.cat((_attend_prefix(q[:, :, :p].to(work) * scale, k.to(work), v.to(work), dropout_p), out), 2)
    return out.to(q.dtype)


def attend_by_autograd(
    q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float
) -> Tensor:
    """As ``attend``, of operations that torch differentiates in either direction, to any order, and maps.

    Still O(N · offsets), but slower: each diagonal is padded to all queries.
    """
    dtype, work = q.dtype, torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    with autocast.disabled(q.device.type):
        q, k, v = q.to(work) * scale, k.to(work), v.to(work)
        p = support.num_prefix_tokens
        heads = [
            _attend_head(q[:, head, p:], k[:, head], v[:, head], segments, p, masking == "zero_logit", dropout_p)
            for head, segments in enumerate(_segments(support))
        ]
        out = torch.stack(heads, 1)
        if p:
            out = torch.cat((_attend_prefix(q[:, :, :p], k, v, dropout_p), out), 2)
    return out.to(dtype)


def weighted_rows(weights: Tensor, q: Tensor, k: Tensor, support: Support, masking: str, scale: float) -> Tensor:
    """See :func:`videofib.attention.weighted_rows`; time and memory are O(N · offsets)."""
    p, total = support.num_prefix_tokens, q.shape[2]
    q, patches = q * scale, weights[:, p:]
    out = q.new_zeros(q.shape[:3])
    for head, segments in enumerate(_segments(support)):
        own, masked = _softmax(
            _logits(q[:, head, p:], k[:, head], segments, p), total if masking == "zero_logit" else None
        )
        excess, sums = _excess(own, masked, None), out[:, head]
        for row, s in enumerate(segments):
            a, b = _query_key(patches, sums[:, p:], s)
            b += a * excess[row, :, s.query : s.query + s.length]
        sums[:, :p] += torch.einsum("pbn,bn->bp", excess[len(segments) :], patches)
        if masked is not None:
            sums += (masked * patches).sum(1, keepdim=True)
    if p:
        out += torch.einsum("bp,bhpk->bhk", weights[:, :p], torch.softmax(q[:, :, :p] @ k.transpose(-2, -1), dim=-1))
    return out


def _attend_head(
    q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], p: int, zero_logit: bool, dropout_p: float
) -> Tensor:
    """Patch queries (B, N, D) of one head see their keys among (B, P+N, D)."""
    n, kh, vh = q.shape[1], k[:, p:], v[:, p:]
    logits = []
    for s in segments:
        a, b = _query_key(q, kh, s)
        logits.append(F.pad((a * b).sum(-1), (s.query, n - s.query - s.length), value=float("-inf")))
    logits += (q @ k[:, :p].transpose(-2, -1)).unbind(-1)
    weights, masked = _softmax(torch.stack(logits), p + n if zero_logit else None)
    excess = _excess(F.dropout(weights, dropout_p) if dropout_p else weights, masked, None)
    out = torch.zeros_like(q)
    for row, s in enumerate(segments):
        _, b = _query_key(q, vh, s)
        piece = excess[row, :, s.query : s.query + s.length, None] * b
        out = out + F.pad(piece, (0, 0, s.query, n - s.query - s.length))
    if p:
        out = out + torch.einsum("pbn,bpd->bnd", excess[len(segments) :], v[:, :p])
    return out if masked is None else out + masked[..., None] * v.sum(1, keepdim=True)


def _attend_prefix(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    """Prefix queries (B, H, P, D) see every key: dense rows, O(P · N)."""
    weights = torch.softmax(q @ k.transpose(-2, -1), dim=-1)
    return F.dropout(weights, dropout_p) @ v


def _logits(q: Tensor, k: Tensor, segments: tuple[Segment, ...], p: int) -> Tensor:
    """Logits (S + P, B, N) of the patch queries (B, N, D) of one head and their keys among (B, P+N, D)."""
    logits = q.new_full((len(segments) + p, *q.shape[:2]), float("-inf"))
    for row, s in enumerate(segments):
        a, b = _query_key(q, k[:, p:], s)
        logits[row, :, s.query : s.query + s.length] = (a * b).sum(-1)
    if p:
        logits[len(segments) :] = (q @ k[:, :p].transpose(-2, -1)).permute(2, 0, 1)
    return logits


@lru_cache(maxsize=256)
def _segments(support: Support) -> tuple[tuple[Segment, ...], ...]:
    return tuple(tuple(support.segments(head)) for head in range(support.num_heads))


def _query_key(x: Tensor, y: Tensor, s: Segment) -> tuple[Tensor, Tensor]:
    """The slices of x (by query) and y (by key), both (B, N, ...), that segment s pairs."""
    return x[:, s.query : s.query + s.length], y[:, s.key : s.key + s.length]


class _Diagonals(torch.autograd.Function):
    """Patch queries of all heads. The backward is written out because autograd would pad every slice's gradient with
    zeros to the size of the full tensor.

    With p_i the softmax weight of key i in the support and p_0 that of each masked key (0 under ``exclude``),

        out = Σ_S (p_i - p_0) v_i + p_0 Σ_all v          d logit_i = p_i (d_out · v_i - d_out · out),   i in S

    so that masked logits have no gradient, and all keys' values have one vector of theirs in common.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, support: Support, zero_logit: bool, dropout_p: float) -> Tensor:
        p, n = support.num_prefix_tokens, support.num_tokens
        batch, heads, total, dim = q.shape
        out = q.new_empty(batch, heads, n, dim)
        saved = []
        for head, segments in enumerate(_segments(support)):
            vh = v[:, head, p:]
            weights, masked = _softmax(_logits(q[:, head, p:], k[:, head], segments, p), total if zero_logit else None)
            keep = None
            if dropout_p:
                keep = torch.empty_like(weights).bernoulli_(1 - dropout_p).div_(1 - dropout_p)
            excess = _excess(weights, masked, keep)
            oh = out[:, head]
            if p:
                oh.copy_(excess[len(segments) :].permute(1, 2, 0) @ v[:, head, :p])
            else:
                oh.zero_()
            for row, s in enumerate(segments):
                o, b = _query_key(oh, vh, s)
                o.addcmul_(excess[row, :, s.query : s.query + s.length, None], b)
            if zero_logit:
                oh.addcmul_(masked[..., None], v[:, head].sum(1, keepdim=True))
            saved += [weights, masked, keep]
        ctx.save_for_backward(q, k, v, out, *saved)
        ctx.support, ctx.zero_logit = support, zero_logit
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor):
        return *_Gradients.apply(ctx.support, ctx.zero_logit, d_out, *ctx.saved_tensors), None, None, None


class _Gradients(torch.autograd.Function):
    """Gradients of q, k and v. As a function of its own it raises whenever a second derivative passes through it;
    ``once_differentiable`` leaves such parts out where autograd is asked for the gradient of some tensors only."""

    @staticmethod
    def forward(ctx, support: Support, zero_logit: bool, d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out, *saved):
        p = support.num_prefix_tokens
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for head, segments in enumerate(_segments(support)):
            weights, masked, keep = saved[3 * head : 3 * head + 3]
            excess = _excess(weights, masked, keep)
            gh, qh, kh, vh = d_out[:, head], q[:, head, p:], k[:, head, p:], v[:, head, p:]
            dqh, dkh, dvh = dq[:, head, p:], dk[:, head, p:], dv[:, head, p:]
            d_logits = torch.zeros_like(weights)  # first d_out · v, then the logits' gradient
            for row, s in enumerate(segments):
                g, b = _query_key(gh, vh, s)
                d_logits[row, :, s.query : s.query + s.length] = (g * b).sum(-1)
                dvh[:, s.key : s.key + s.length].addcmul_(g, excess[row, :, s.query : s.query + s.length, None])
            if p:
                d_logits[len(segments) :] = (gh @ v[:, head, :p].transpose(-2, -1)).permute(2, 0, 1)
                dv[:, head, :p] += excess[len(segments) :].transpose(0, 1) @ gh
            if zero_logit:
                dv[:, head] += torch.einsum("bn,bnd->bd", masked, gh)[:, None]
            if keep is not None:
                d_logits *= keep
            d_logits -= (gh * out[:, head]).sum(-1)
            d_logits *= weights
            for row, s in enumerate(segments):
                d = d_logits[row, :, s.query : s.query + s.length, None]
                a, b = _query_key(qh, kh, s)
                dqh[:, s.query : s.query + s.length].addcmul_(d, b)
                dkh[:, s.key : s.key + s.length].addcmul_(d, a)
            if p:
                d = d_logits[len(segments) :].permute(1, 2, 0)
                dqh += d @ k[:, head, :p]
                dk[:, head, :p] += d.transpose(-2, -1) @ qh
        return dq, dk, dv

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError(FIRST_DERIVATIVES_ONLY)


def _softmax(logits: Tensor, num_keys: int | None) -> tuple[Tensor, Tensor | None]:
    """Softmax over the first axis of (S + P, B, N), whose -inf rows are pairs that do not exist.

    With ``num_keys`` (masking ``zero_logit``) all other keys up to that number have logit 0; the second result is the
    weight of each of them, (B, N).
    """
    if num_keys is None:
        return torch.softmax(logits, dim=0), None
    top = logits.detach().amax(0).clamp_min_(0)
    num_masked = num_keys - torch.isfinite(logits).sum(0)
    weights, masked = (logits - top).exp_(), (-top).exp_()
    total = weights.sum(0) + num_masked * masked
    return weights / total, masked / total


def _excess(weights: Tensor, masked: Tensor | None, keep: Tensor | None) -> Tensor:
    """By how much the weight of a key in the support exceeds that of a masked one: p_i - p_0, after dropout.

    Rows of pairs that do not exist hold 0 - p_0 here; no slice reads them.
    """
    if keep is not None:
        return weights * keep
    return weights if masked is None else weights - masked
