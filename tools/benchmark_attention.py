"""Time and memory of sparse attention against dense attention, in one run.

    python tools/benchmark_attention.py --tokens 196 784 1568 --backward --json out.json --plot out.png

Contenders take turns, so that a slow moment of the machine affects all of them; in a turn each is called repeatedly for
some milliseconds. Figures are medians over turns, and ratios are to torch's fused dense attention (sdpa) in the same
run. Peak memory is what a call needs beyond its inputs, output included; on the CPU it is measured in the first call of
a separate process. Copy share is the time to read q, k, v and write the output once at this machine's copying speed,
divided by the time of the call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import Support, sparse_attention
from videofib.files import replacing

MARKERS = "os^Dv"  # of lines, which differ not in colour alone
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    return partial(flex_attention if mask.device.type == "cpu" else torch.compile(flex_attention), block_mask=blocks)


def contenders(args: argparse.Namespace, support: Support) -> dict[str, Callable[[], Callable[..., Tensor]]]:
    """By name, the function that prepares a contender (its tables and masks) and returns it."""
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
        found[name] = lambda name=name: partial(sparse_attention, support=support, backend=name)
    return found


def inputs(args: argparse.Namespace, num_tokens: int) -> list[Tensor]:
    """q, k, v (B, H, 1+N, D), separate or as slices of one packed projection, as in a model."""
    packed = torch.randn(args.batch, num_tokens + 1, 3, args.heads, args.head_dim, device=args.device)
    qkv = packed.to(DTYPES[args.dtype]).permute(2, 0, 3, 1, 4)
    qkv = qkv.contiguous() if args.layout == "separate" else qkv
    return [x.detach().requires_grad_(args.backward) for x in qkv]


def call(attend: Callable[..., Tensor], qkv: list[Tensor], gradient: Tensor, backward: bool) -> None:
    if backward:
        torch.autograd.grad(attend(*qkv), qkv, gradient)
    else:
        with torch.no_grad():
            attend(*qkv)


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
        attend, qkv = contenders(args, Support.fibottention(args.heads, tokens))[name](), inputs(args, tokens)
        return partial(call, attend, qkv, torch.randn_like(qkv[0]), args.backward)

    prepared(8)()  # libraries and compiled code
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
    support = Support.fibottention(args.heads, num_tokens)
    qkv = inputs(args, num_tokens)
    gradient = torch.randn_like(qkv[0])
    calls = {
        name: partial(call, prepare(), qkv, gradient, args.backward)
        for name, prepare in contenders(args, support).items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for function in calls.values():  # compiles, and fills caches
        function()
    for _ in range(args.repeats):
        for name, function in calls.items():
            times[name].append(seconds(function, args.device, args.turn_ms / 1e3))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    moved = 4 * qkv[0].numel() * qkv[0].element_size()
    measure_peak = partial(peak_bytes, args, num_tokens) if args.memory else lambda name: None
    return [
        {
            "tokens": num_tokens,
            "contender": name,
            "ms": 1e3 * median,
            "ratio_to_sdpa": medians["sdpa"] / median if "sdpa" in medians else None,
            "peak_mib": None if (peak := measure_peak(name)) is None else peak / 2**20,
            "inputs_and_output_mib": moved / 2**20,
            "copy_share": moved / speed / median,
        }
        for name, median in medians.items()
    ]


def slope(rows: list[dict], contender: str) -> float | None:
    """The exponent of time over tokens, fitted from 1568 tokens on; about 1.1 for N log N, 2 for dense attention."""
    points = [(row["tokens"], row["ms"]) for row in rows if row["contender"] == contender and row["tokens"] >= 1568]
    return float(np.polyfit(*np.log(np.array(points).T), 1)[0]) if len(points) > 1 else None


def line(row: dict) -> str:
    peak, held = row["peak_mib"], row["inputs_and_output_mib"]
    memory = ("-", "-") if peak is None else (f"{peak:.0f}", f"{peak / held:.1f}")
    ratio = "-" if row["ratio_to_sdpa"] is None else f"{row['ratio_to_sdpa']:.1f}"
    return (
        f"{row['tokens']:7} {row['contender']:14} {row['ms']:10.2f} {ratio:>7} {memory[0]:>9} {memory[1]:>11} "
        f"{row['copy_share']:10.1%}"
    )


def draw(rows: list[dict], title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, marker in zip(dict.fromkeys(row["contender"] for row in rows), itertools.cycle(MARKERS), strict=False):
        points = [(row["tokens"], row["ms"]) for row in rows if row["contender"] == name]
        fitted = slope(rows, name)
        label = name if fitted is None else f"{name} (slope {fitted:.2f})"
        axes.loglog(*zip(*points, strict=True), f"{marker}-", label=label)
    tokens = sorted({row["tokens"] for row in rows})
    axes.set_xticks(tokens, map(str, tokens))
    axes.minorticks_off()
    axes.set(xlabel="tokens", ylabel="median ms", title=title)
    axes.grid(True, which="both", alpha=0.2)
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix[1:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 784, 1568, 6272, 18816])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--backends", nargs="*", help="of sparse_attention (default: gather and the compiled one)")
    parser.add_argument("--backward", action="store_true", help="time forward and backward, not forward alone")
    parser.add_argument(
        "--layout",
        choices=["packed", "separate"],
        default="packed",
        help="q, k, v as slices of one projection, or each contiguous",
    )
    parser.add_argument("--repeats", type=int, default=9, help="turns of each contender")
    parser.add_argument("--turn-ms", type=float, default=20.0, help="milliseconds of a turn, at least one call")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure peak memory")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture of time against tokens")
    args = parser.parse_args(argv)
    if args.backends is None:
        args.backends = ["gather", "cpu" if args.device == "cpu" else "triton"]
    torch.manual_seed(0)
    speed = copy_speed(args.device)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = (
        f"{'forward and backward' if args.backward else 'forward'}, {args.heads} heads x {args.head_dim}, "
        f"{args.dtype}, batch {args.batch}, {args.layout} q, k, v, {machine}"
    )
    print(f"{title}; copying {speed / 1e9:.1f} GB/s; torch {torch.__version__}, Python {platform.python_version()}")
    titles = ("tokens", "contender", "ms", "x sdpa", "peak MiB", "x q,k,v,out", "copy share")
    print("{:>7} {:14} {:>10} {:>7} {:>9} {:>11} {:>10}".format(*titles))
    rows = []
    for num_tokens in args.tokens:
        for row in measure(args, num_tokens, speed):
            rows.append(row)
            print(line(row), flush=True)
    slopes = {name: slope(rows, name) for name in dict.fromkeys(row["contender"] for row in rows)}
    for name, fitted in slopes.items():
        if fitted is not None:
            print(f"{name}: time grows as tokens ^ {fitted:.2f}, from 1568 tokens on")
    if args.json:
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps({"setting": title, "rows": rows, "slopes": slopes}, indent=1) + "\n")
    if args.plot:
        draw(rows, title, args.plot)


if __name__ == "__main__":
    main()
