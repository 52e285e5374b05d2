"""``videofib bench attention``: time and memory of sparse attention against dense attention, in one run.

videofib bench attention --tokens 196 784 1568 --backward --json out.json --plot out.png
videofib bench attention --tokens 196 1568 6272 --mixers fibottention xcit natten --head-dim 64 --heads 6

Contenders take turns, so that a slow moment of the machine affects all of them; in a turn each is called repeatedly for
some milliseconds. Figures are medians over turns, and ratios are to torch's fused dense attention (sdpa) in the same
run. Peak memory is what a call needs beyond its inputs, output included; on the CPU it is measured in the first call of
a separate process. Copy share is the time to read q, k, v and write the output once at this machine's copying speed,
divided by the time of the call.

With --mixers whole layers are compared, with the projections that belong to each, over frames of 14x14 tokens: any of
videofib/mixers, beside dense attention, whose core is sdpa. Backward then computes the gradients of the weights, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from videofib.files import replacing
from videofib.parser import Parser
from videofib.signals import sigint_deferred

_MARKERS = "os^Dv"  # of lines, which differ not in colour alone
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_BACKENDS = ("gather", "cpu", "triton", "reference")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print a row for each contender and number of tokens, and write what is asked for."""
    args = arguments(argv, prog)
    with sigint_deferred():
        import torch

        from videofib.bench.attention_speed import copy_speed, machine, measure, slope

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, and torch finds no GPU on this machine")
    args.backends = args.backends or ["gather", "cpu" if args.device == "cpu" else "triton"]
    torch.manual_seed(0)
    speed = copy_speed(args.device)
    of = f"layers of {args.heads} heads" if args.mixers else f"{args.layout} q, k, v of {args.heads} heads"
    title = (
        f"{'forward and backward' if args.backward else 'forward'}, {of} x {args.head_dim}, "
        f"{args.dtype}, batch {args.batch}, {machine(args.device)}"
    )
    print(f"{title}; copying {speed / 1e9:.1f} GB/s; torch {torch.__version__}, Python {platform.python_version()}")
    titles = ("tokens", "contender", "ms", "x sdpa", "peak MiB", "x in, out", "copy share")
    print("{:>7} {:14} {:>10} {:>7} {:>9} {:>11} {:>10}".format(*titles))
    rows = []
    try:
        for num_tokens in args.tokens:
            for row in measure(args, num_tokens, speed):
                rows.append(row)
                print(line(row), flush=True)
    except ValueError as error:  # what a mixer, or an option, says of itself
        raise SystemExit(f"error: {error}") from error
    slopes = {name: slope(rows, name) for name in dict.fromkeys(row["contender"] for row in rows)}
    for name, fitted in slopes.items():
        if fitted is not None:
            print(f"{name}: time grows as tokens ^ {fitted:.2f}, from 1568 tokens on")
    if args.json:
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps({"setting": title, "rows": rows, "slopes": slopes}, indent=1) + "\n")
    if args.plot:
        draw(rows, slopes, title, args.plot)


def line(row: dict) -> str:
    peak, held = row["peak_mib"], row["inputs_and_output_mib"]
    memory = ("-", "-") if peak is None else (f"{peak:.0f}", f"{peak / held:.1f}")
    ratio = "-" if row["ratio_to_sdpa"] is None else f"{row['ratio_to_sdpa']:.1f}"
    return (
        f"{row['tokens']:7} {row['contender']:14} {row['ms']:10.2f} {ratio:>7} {memory[0]:>9} {memory[1]:>11} "
        f"{row['copy_share']:10.1%}"
    )


def draw(rows: list[dict], slopes: dict[str, float | None], title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, marker in zip(dict.fromkeys(row["contender"] for row in rows), itertools.cycle(_MARKERS), strict=False):
        points = [(row["tokens"], row["ms"]) for row in rows if row["contender"] == name]
        fitted = slopes[name]
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


def mixer_options(text: str) -> dict[str, dict[str, object]]:
    """Options of mixers, from JSON."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        raise ValueError(text)
    return found


def arguments(argv: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 784, 1568, 6272, 18816])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", choices=_DTYPES, default="float32")
    parser.add_argument(
        "--backends", nargs="*", choices=_BACKENDS, help="of sparse_attention (default: gather and the compiled one)"
    )
    parser.add_argument("--mixers", nargs="+", default=[], metavar="NAME", help="compare layers of these mixers")
    parser.add_argument(
        "--options", type=mixer_options, default={}, help='of mixers, such as \'{"dape": {"kernel": 3}}\''
    )
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
    if args.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if args.mixers and (args.backends is not None or args.layout != "packed"):
        parser.error("--mixers compares layers, and --backends and --layout are of their core alone")
    if args.options and not args.mixers:
        parser.error("--options are of --mixers")
    if min(args.tokens) < 1 or min(args.batch, args.heads, args.head_dim, args.repeats) < 1:
        parser.error("tokens, --batch, --heads, --head-dim and --repeats must be at least 1")
    return args
