"""The halo: processes exchange just those rows of keys and values that their queries see over a sparse support.

Three groups of rows travel, each to where it is needed and its gradients back:

    keys and values   of the offsets, and of prefix tokens, to the queries that see them      (``plan``)
    prefix queries    to all, as they see every token: each process attends to its own keys and returns output and log
                      of the denominators, which their owner merges
    sums of values    under ``zero_logit``, to all: masked keys weigh e^0 each, wherever they are

Under ``zero_logit`` a query with c of all S = P+N keys in its support has, beside these, S - c keys of logit 0. With
(out, l) over the support alone, and ū the mean of the support's values, that is, attention with queries of 0,

    lse = log(e^l + S - c)        out' = e^(l - lse) out + e^(-lse) (Σ_all v - c ū)

Masked logits have no gradient; d v_j = Σ_i p_ij d_out_i in the support, and Σ e^(-lse_i) d_out_i elsewhere.

Axes: B batch, H heads, n local tokens, m of them patches, M rows of keys, P prefix tokens, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from videofib.attention import autocast
from videofib.attention.context.blockwise import OnlineSoftmax, add_gradients, work_dtype
from videofib.attention.context.group import ContextGroup, TokenSlice
from videofib.attention.context.halo_kernels import RaggedKernel
from videofib.attention.context.plan import HaloPlan, halo_plan
from videofib.attention.kernels.layout import rows_like
from videofib.attention.support import Support


def attend_by_halo(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    support: Support,
    tokens: TokenSlice,
    scale: float,
    zero_logit: bool,
    kernel: RaggedKernel,
) -> Tensor:
    """Attention over a support: (B, H, n, D) of the local tokens -> (B, H, n, D), whose first derivatives there are.

    Args:
        q, k, v: of the slice ``tokens``, in every process of the same B, H, D and dtype.
        support: for H heads and all P+N tokens.
        scale: of the logits.
        zero_logit: whether logits outside the support are 0 instead of left out.
        kernel: what computes the local part.
    """
    return _Halo.apply(support, tokens, scale, zero_logit, kernel, q, k, v)


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx, support: Support, tokens: TokenSlice, scale: float, zero_logit: bool, kernel, q, k, v) -> Tensor:
        context = tokens.context
        plan = halo_plan(support, context.size, context.rank, q.device)
        with autocast.disabled(q.device.type):
            rows_k, rows_v = _collect(plan, context, k, v)
            p = q.shape[2] - plan.pairs.num_queries  # local prefix tokens
            out, lse = rows_like(q), q.new_empty(q.shape[:3], dtype=work_dtype(q.dtype))
            sums = _sum_of_all(v.to(lse.dtype).sum(2), context) if zero_logit else None
            if plan.pairs.num_queries:
                own, own_lse = kernel.attend(q[:, :, p:], rows_k, rows_v, plan.pairs, scale)
                if sums is not None:
                    mean, _ = kernel.attend(torch.zeros_like(q[:, :, p:]), rows_k, rows_v, plan.pairs, scale)
                    own, own_lse = _with_masked(own, own_lse, mean, sums, plan.pairs.counts.to(q.device), tokens.total)
                out[:, :, p:], lse[:, :, p:] = own, own_lse
            prefix = _prefix_counts(support.num_prefix_tokens, tokens)
            prefix_q = q[:, :, :0]
            if support.num_prefix_tokens:
                prefix_q = _spread(q[:, :, :p], prefix, context)
                out[:, :, :p], lse[:, :, :p] = _attend_prefix(prefix_q, k, v, scale, prefix, context)
        ctx.save_for_backward(q, k, v, rows_k, rows_v, prefix_q, out, lse)
        ctx.options = plan, context, prefix, scale, zero_logit, kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor):
        q, k, v, rows_k, rows_v, prefix_q, out, lse = ctx.saved_tensors
        plan, context, prefix, scale, zero_logit, kernel = ctx.options
        p, work = prefix[context.rank], lse.dtype
        with autocast.disabled(q.device.type):
            dq, dkv = (torch.zeros(shape, dtype=work, device=q.device) for shape in (q.shape, (2, *k.shape)))
            d_rows_k, d_rows_v = rows_k, rows_v  # of no rows, where there are no patches
            if plan.pairs.num_queries:
                dq[:, :, p:], d_rows_k, d_rows_v = _patch_gradients(
                    d_out[:, :, p:],
                    q[:, :, p:],
                    out[:, :, p:],
                    lse[:, :, p:],
                    rows_k,
                    rows_v,
                    plan,
                    scale,
                    zero_logit,
                    kernel,
                )
            _return(plan, context, d_rows_k, d_rows_v, dkv)
            if zero_logit:
                weights = lse[:, :, p:].neg().exp()
                masked = torch.einsum("bhm,bhmd->bhd", weights, d_out[:, :, p:].to(work))
                dkv[1] += _sum_of_all(masked, context)[:, :, None]
            if sum(prefix):
                delta = (d_out[:, :, :p].to(work) * out[:, :, :p].to(work)).sum(-1)
                known = torch.cat((d_out[:, :, :p].to(work), lse[:, :, :p, None], delta[..., None]), dim=-1)
                known = _spread(known, prefix, context)
                part = torch.zeros(prefix_q.shape, dtype=work, device=q.device)
                dim = q.shape[3]
                d_prefix, prefix_lse, delta = known[..., :dim], known[..., dim], known[..., dim + 1]
                add_gradients(d_prefix, prefix_q, k, v, prefix_lse, delta, scale, part, dkv)
                dq[:, :, :p] = _gather(part, prefix, context).sum(0)
        dk, dv = dkv.to(q.dtype)
        return *(None,) * 5, dq.to(q.dtype), dk, dv


def _with_masked(
    own: Tensor, own_lse: Tensor, mean: Tensor, sums: Tensor, counts: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    """Output and log of the denominators with the masked keys, see above; (B, H, m, D) and (B, H, m)."""
    lse = torch.logaddexp(own_lse, (total - counts).to(own_lse.dtype).log().expand_as(own_lse))
    masked = sums[:, :, None] - counts[..., None] * mean.to(sums.dtype)
    return own * (own_lse - lse).exp()[..., None] + masked * lse.neg().exp()[..., None], lse


def _patch_gradients(
    d_out: Tensor,
    q: Tensor,
    out: Tensor,
    lse: Tensor,
    k: Tensor,
    v: Tensor,
    plan: HaloPlan,
    scale: float,
    zero_logit: bool,
    kernel: RaggedKernel,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the patch queries (B, H, m, D) and of the rows (B, M, D)."""
    dq, dk, dv = kernel.gradients(d_out, q, k, v, out, lse, plan.pairs, scale)
    if zero_logit:  # what all keys get as masked ones is too much for those of the support
        dv = dv - kernel.gradients(d_out, torch.zeros_like(q), k, v, out, lse, plan.pairs, scale)[2]
    return dq, dk, dv


def _attend_prefix(
    q: Tensor, k: Tensor, v: Tensor, scale: float, prefix: Sequence[int], context: ContextGroup
) -> tuple[Tensor, Tensor]:
    """All prefix queries (B, H, P, D) over the local keys, then merged by the owners: (B, H, p, D) and (B, H, p)."""
    softmax = OnlineSoftmax(q, scale)
    softmax.add(k, v)
    out, lse = softmax.result()
    parts = _gather(torch.cat((out, lse[..., None]), dim=-1), prefix, context)
    out, lse = parts[..., :-1], parts[..., -1]
    return (torch.softmax(lse, 0)[..., None] * out).sum(0), lse.logsumexp(0)


# rows of keys and values: buffers are laid out as (rows, k and v, B, D), so that the parts of processes are contiguous


def _collect(plan: HaloPlan, context: ContextGroup, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The local (B, H, n, D) -> the rows (B, M, D) that the local queries see."""
    send, receive = _row_counts(plan, context)
    batch, dim = k.shape[0], k.shape[3]
    packed = k.new_empty(sum(send), 2, batch, dim)
    for buffer, (heads, rows) in zip(packed.split(send), _others(plan.sent, context), strict=True):
        for index, x in enumerate((k, v)):
            buffer[:, index] = rearrange(x[:, heads, rows], "b r d -> r b d")
    received = _exchange(packed, send, receive, context)
    results = [k.new_empty(batch, plan.pairs.edges[-1], dim) for _ in "kv"]
    heads, rows = plan.sent[context.rank]
    theirs = torch.cat(_others(plan.received, context)) if context.size > 1 else plan.received[0][:0]
    for index, (result, x) in enumerate(zip(results, (k, v), strict=True)):
        result[:, plan.received[context.rank]] = x[:, heads, rows]
        result[:, theirs] = rearrange(received[:, index], "r b d -> b r d")
    return results[0], results[1]


def _return(plan: HaloPlan, context: ContextGroup, dk: Tensor, dv: Tensor, total: Tensor) -> None:
    """The dual: add the gradients of the rows (B, M, D) to those of their owners, ``total`` (2, B, H, n, D)."""
    send, receive = _row_counts(plan, context)
    theirs = torch.cat(_others(plan.received, context)) if context.size > 1 else plan.received[0][:0]
    packed = torch.stack([rearrange(x[:, theirs], "b r d -> r b d") for x in (dk, dv)], dim=1)
    received = _exchange(packed, receive, send, context)
    heads, rows = plan.sent[context.rank]
    for index, x in enumerate((dk, dv)):  # within a part no row occurs twice, so that sums have one order
        total[index][:, heads, rows] += x[:, plan.received[context.rank]].to(total.dtype)
        for buffer, (heads_, rows_) in zip(received.split(send), _others(plan.sent, context), strict=True):
            total[index][:, heads_, rows_] += rearrange(buffer[:, index], "r b d -> b r d").to(total.dtype)


def _row_counts(plan: HaloPlan, context: ContextGroup) -> tuple[list[int], list[int]]:
    """How many rows go to each other process, and come from it."""
    return [len(rows) for _, rows in _others(plan.sent, context)], list(map(len, _others(plan.received, context)))


def _others(parts: Sequence, context: ContextGroup) -> list:
    return [part for rank, part in enumerate(parts) if rank != context.rank]


def _exchange(packed: Tensor, send: list[int], receive: list[int], context: ContextGroup) -> Tensor:
    """Rows for each other process -> rows from each other process, in the order of their ranks."""
    received = packed.new_empty(sum(receive), *packed.shape[1:])
    each = packed[:1].numel() if len(packed) else received[:1].numel()
    output, input = ([count * each for count in counts] for counts in (receive, send))
    for counts in (output, input):
        counts.insert(context.rank, 0)  # nothing for itself
    dist.all_to_all_single(received.view(-1), packed.view(-1), output, input, group=context.group)
    return received


# rows of which every process has some, and all need all: prefix tokens, and one sum of each process


def _prefix_counts(num_prefix_tokens: int, tokens: TokenSlice) -> list[int]:
    """The number of prefix tokens in the slice of each process."""
    counts, left = [], num_prefix_tokens
    for count in tokens.counts:
        counts.append(min(count, left))
        left -= counts[-1]
    return counts


def _spread(x: Tensor, counts: Sequence[int], context: ContextGroup) -> Tensor:
    """(B, H, p, D) for the counts[rank] = p own rows -> those of all processes, (B, H, P, D), in every process."""
    rows = rearrange(x, "b h p d -> p b h d").contiguous()
    packed = rows.repeat(context.size - 1, 1, 1, 1)
    others = _others(counts, context)
    parts = list(_exchange(packed, [len(rows)] * (context.size - 1), others, context).split(others))
    parts.insert(context.rank, rows)
    return rearrange(torch.cat(parts), "p b h d -> b h p d")


def _gather(x: Tensor, counts: Sequence[int], context: ContextGroup) -> Tensor:
    """The dual: what each process has for all rows (B, H, P, D) -> what all have for the own ones, (R, B, H, p, D)."""
    parts = list(rearrange(x, "b h p d -> p b h d").split(list(counts)))
    own, others = parts.pop(context.rank), [counts[context.rank]] * (context.size - 1)
    packed = torch.cat(parts) if parts else own[:0]
    received = list(_exchange(packed.contiguous(), list(map(len, parts)), others, context).split(others))
    received.insert(context.rank, own)
    return rearrange(torch.stack(received), "r p b h d -> r b h p d")


def _sum_of_all(x: Tensor, context: ContextGroup) -> Tensor:
    """The sum over processes of (B, H, D), added up in the same order in each."""
    return _spread(x[:, :, None], [1] * context.size, context).sum(2)
