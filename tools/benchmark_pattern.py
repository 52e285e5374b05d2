"""Attention over patterns against dense attention: ratios in one run, forward and backward.

    python tools/benchmark_pattern.py --tokens 1568 6272 --heads 12 --head-dim 64

The patterns have Fibottention's density; ``natten`` is a window of 3 x 3 x 3 in a grid of 14 x 14 places a frame, and
denser. For each pattern the compiled kernel (``cpu``) and the index gather of plain PyTorch (``gather``) are compared
with torch's own dense attention (``sdpa``): above 1 is faster. Contenders take turns, and a ratio is that of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import Pattern, Support, pattern_attention, patterns, sparse_attention
from videofib.bench.attention_speed import call, machine, seconds

FRAME = 14 * 14  # places of tokens
NEIGHBOURS = (3, 3, 3)


def made(heads: int, tokens: int) -> dict[str, Pattern]:
    """The patterns by name."""
    density = Support.fibottention(heads, tokens).density()
    return {
        "fibottention": Pattern.from_support(Support.fibottention(heads, tokens)),
        "random": patterns.random(heads, tokens, keep=density),
        "natten": patterns.neighbourhood(heads, (tokens // FRAME, 14, 14), kernel=NEIGHBOURS),
    }


def contenders(heads: int, tokens: int, with_gather: bool) -> dict[str, Callable[..., Tensor]]:
    """By name, functions of q, k and v."""
    found: dict[str, Callable[..., Tensor]] = {
        "sdpa": F.scaled_dot_product_attention,
        "fibottention, its own kernel": partial(sparse_attention, support=Support.fibottention(heads, tokens)),
    }
    for name, pattern in made(heads, tokens).items():
        for backend in ("cpu", "gather") if with_gather else ("cpu",):
            found[f"{name} ({pattern.density():.2%}), {backend}"] = partial(
                pattern_attention, pattern=pattern, backend=backend
            )
    return found


def measure(args: argparse.Namespace, tokens: int, backward: bool) -> list[dict]:
    """A row for each contender."""
    packed = torch.randn(args.batch, 1 + tokens, 3, args.heads, args.head_dim)
    qkv = [x.detach().requires_grad_(backward) for x in packed.permute(2, 0, 3, 1, 4)]
    gradient = torch.randn_like(qkv[0])
    functions = contenders(args.heads, tokens, tokens <= args.gather_limit)
    calls = {name: partial(call, attend, qkv, gradient, backward) for name, attend in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for function in calls.values():  # compiles, and fills caches
        function()
    for _ in range(args.repeats):
        for name, function in calls.items():
            times[name].append(seconds(function, "cpu", args.turn_ms / 1e3))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return [
        {
            "tokens": tokens,
            "pass": "forward and backward" if backward else "forward",
            "contender": name,
            "ms": 1e3 * median,
            "ratio_to_sdpa": medians["sdpa"] / median,
        }
        for name, median in medians.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1568, 6272], help=f"multiples of {FRAME}")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contender")
    parser.add_argument("--turn-ms", type=float, default=50.0, help="at least so long a turn")
    parser.add_argument("--gather-limit", type=int, default=2000, help="tokens above which gather is left out")
    parser.add_argument("--json", action="store_true", help="print rows as JSON lines")
    args = parser.parse_args(argv)
    if any(tokens < FRAME * NEIGHBOURS[0] or tokens % FRAME for tokens in args.tokens):
        parser.error(f"--tokens must be multiples of {FRAME} from {FRAME * NEIGHBOURS[0]} on, got {args.tokens}")
    print(f"{machine('cpu')}, batch {args.batch}, {args.heads} heads of {args.head_dim}")
    for tokens in args.tokens:
        for backward in (False, True):
            for row in measure(args, tokens, backward):
                if args.json:
                    print(json.dumps(row))
                else:
                    print("{tokens:>6}  {pass:<20}  {ratio_to_sdpa:>7.2f} x  {ms:>9.2f} ms  {contender}".format(**row))


if __name__ == "__main__":
    main()
