"""How long sparse and dense attention take, and how much memory they need, in one run."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videofib.attention import Support, sparse_attention
from videofib.bench import layer_speed

MASK_LIMIT = 4096  # tokens, above which contenders with an N x N mask are left out
DENSE_LIMIT = 20_000  # tokens, above which dense attention on the CPU is left out


def index_gather(support: Support) -> Callable[..., Tensor]:
    """The baseline of earlier code: gather the keys of each query by an index table, padded to the largest support."""
    n, p = support.num_tokens, support.num_prefix_tokens
    deltas = [sorted({s for o in row for s in (o, -o)}) for row in support.offsets]
    width = max(map(len, deltas))
    table = torch.full((support.num_heads, n, width + p), -1)
    for head, row in enumerate(deltas):
        keys = torch.arange(n)[:, None] + torch.tensor(row)
        table[head, :, : len(row)] = torch.where((keys >= 0) & (keys < n), keys + p, -1)
    table[:, :, width:] = torch.arange(p)
    missing, index = table < 0, table.clamp(min=0)
    heads = torch.arange(support.num_heads)[:, None, None]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        logits = torch.einsum("bhnd,bhnkd->bhnk", q[:, :, p:], k[:, heads, index.to(k.device)]) * scale
        weights = logits.masked_fill(missing.to(q.device), float("-inf")).softmax(-1)
        out = torch.einsum("bhnk,bhnkd->bhnd", weights, v[:, heads, index.to(v.device)])
        return torch.cat([F.scaled_dot_product_attention(q[:, :, :p], k, v), out], 2)

    return attend


def flex(mask: Tensor) -> Callable[..., Tensor]:
    """torch's FlexAttention with the same mask: compiled on a GPU, eager on the CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    heads, total, _ = mask.shape
    blocks = create_block_mask(lambda b, h, i, j: mask[h, i, j], None, heads, total, total, device=mask.device)
    attend: Callable[..., Tensor] = flex_attention
    return partial(attend if mask.device.type == "cpu" else torch.compile(attend), block_mask=blocks)


def contenders(args: argparse.Namespace, num_tokens: int) -> dict[str, Callable[[], Callable[..., Tensor]]]:
    """By name, the function that prepares a contender (its tables, masks and weights) and returns it.

    The first is dense attention, unless that would take too long. With ``--mixers`` they are layers.
    """
    if args.mixers:
        layers = layer_speed.contenders(args, num_tokens)
        is_left_out = args.device == "cpu" and num_tokens > DENSE_LIMIT
        return {name: layer for name, layer in layers.items() if name != layer_speed.REFERENCE or not is_left_out}
    support = Support.fibottention(args.heads, num_tokens)
    found: dict[str, Callable[[], Callable[..., Tensor]]] = {}
    total = support.num_tokens + support.num_prefix_tokens
    if args.device != "cpu" or total <= DENSE_LIMIT:
        found["sdpa"] = lambda: F.scaled_dot_product_attention
    if total <= MASK_LIMIT:
        found["sdpa, mask"] = lambda: partial(
            F.scaled_dot_product_attention, attn_mask=support.to_mask().to(args.device)
        )
        if not (args.backward and args.device == "cpu"):  # where FlexAttention has no backward
            found["flex"] = lambda: flex(support.to_mask().to(args.device))
    found["index gather"] = lambda: index_gather(support)
    for name in args.backends:
        found[name] = partial(partial, sparse_attention, support=support, backend=name)
    return found


def inputs(args: argparse.Namespace, num_tokens: int) -> list[Tensor]:
    """q, k, v (B, H, 1+N, D), separate or as slices of one packed projection; for layers x (B, 1+N, HD)."""
    if args.mixers:
        x = torch.randn(args.batch, num_tokens + 1, args.heads * args.head_dim, device=args.device)
        return [x.to(getattr(torch, args.dtype)).requires_grad_(args.backward)]
    packed = torch.randn(args.batch, num_tokens + 1, 3, args.heads, args.head_dim, device=args.device)
    qkv = packed.to(getattr(torch, args.dtype)).permute(2, 0, 3, 1, 4)
    qkv = qkv.contiguous() if args.layout == "separate" else qkv
    return [x.detach().requires_grad_(args.backward) for x in qkv]


def call(attend: Callable[..., Tensor], given: list[Tensor], gradient: Tensor, backward: bool) -> None:
    if backward:
        weights = list(attend.parameters()) if isinstance(attend, nn.Module) else []
        torch.autograd.grad(attend(*given), [*given, *weights], gradient)
    else:
        with torch.no_grad():
            attend(*given)


def seconds(function: Callable[[], object], device: str, at_least: float = 0.0) -> float:
    """Mean seconds of a call, over as many calls as take ``at_least`` seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, calls = time.perf_counter(), 0
    while True:
        function()
        calls += 1
        if device == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
        if taken >= at_least:
            return taken / calls


def peak_bytes(args: argparse.Namespace, num_tokens: int, name: str) -> int | None:
    """Peak memory of the call beyond its inputs; None where the system does not report it."""
    if args.device == "cuda":
        return _peak(args, num_tokens, name)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (args, num_tokens, name))


def _peak(args: argparse.Namespace, num_tokens: int, name: str) -> int | None:
    def prepared(tokens: int) -> Callable[[], None]:
        attend, given = contenders(args, tokens)[name](), inputs(args, tokens)
        return partial(call, attend, given, torch.randn_like(given[0]), args.backward)

    prepared(layer_speed.SIDE**2)()  # libraries and compiled code
    function = prepared(num_tokens)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak to the current memory
    except OSError:
        return None
    before = _resident("VmRSS")
    function()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def copy_speed(device: str) -> float:
    """Bytes per second, read and written, of copying 256 MiB with torch."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * 2**26 / min(seconds(lambda: target.copy_(source), device) for _ in range(7))


def measure(args: argparse.Namespace, num_tokens: int, speed: float) -> list[dict]:
    """One row for each contender."""
    given = inputs(args, num_tokens)
    gradient = torch.randn_like(given[0])
    calls = {
        name: partial(call, prepare(), given, gradient, args.backward)
        for name, prepare in contenders(args, num_tokens).items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for function in calls.values():  # compiles, and fills caches
        function()
    for _ in range(args.repeats):
        for name, function in calls.items():
            times[name].append(seconds(function, args.device, args.turn_ms / 1e3))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    moved = (len(given) + 1) * given[0].numel() * given[0].element_size()
    dense = next((medians[name] for name in ("sdpa", layer_speed.REFERENCE) if name in medians), None)
    measure_peak = partial(peak_bytes, args, num_tokens) if args.memory else lambda name: None
    return [
        {
            "tokens": num_tokens,
            "contender": name,
            "ms": 1e3 * median,
            "ratio_to_sdpa": None if dense is None else dense / median,
            "peak_mib": None if (peak := measure_peak(name)) is None else peak / 2**20,
            "inputs_and_output_mib": moved / 2**20,
            "copy_share": moved / speed / median,
        }
        for name, median in medians.items()
    ]


def slope(rows: list[dict], contender: str) -> float | None:
    """The exponent of time over tokens, fitted from 1568 tokens on; about 1.1 for N log N, 2 for dense attention."""
    points = [(row["tokens"], row["ms"]) for row in rows if row["contender"] == contender and row["tokens"] >= 1568]
    if len(points) < 2:
        return None
    tokens, times = np.log(np.array(points, float)).T
    return float(np.polyfit(tokens, times, 1)[0])


def machine(device: str) -> str:
    """What computes, in words."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
