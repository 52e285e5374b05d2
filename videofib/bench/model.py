"""``videofib bench model``: speed and memory of models with different attention types, in one run.

videofib bench model --frames 8 32 --attention joint joint_fibottention
videofib bench model --frames 96 --attention joint_fibottention --train --checkpointing
videofib bench model --attention joint joint_xcit divided_natten --pooling mean
videofib bench model --attention joint joint+skip --skipped 3 4 5 6 7 8

The model is TimeSformer-B at 224 pixels by default. Every contender runs in a process of its own; they take turns of
one step, so that a slow moment of the machine affects all of them. Figures are medians over turns, without the first
step. Ratios are to the first attention type. Peak memory is the most that the process held (on CUDA, its tensors):
parameters, activations and, in training, gradients and AdamW's two moments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from videofib.bench.attention import mixer_options
from videofib.files import replacing
from videofib.parser import Parser
from videofib.signals import sigint_deferred

_MARKERS = "os^Dv"  # of lines, which differ not in colour alone
_POOLINGS = ("class_token", "mean")
_RECOMPUTE = ("block", "cheap")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print a row for each attention type and number of frames, and write what is asked for."""
    args = arguments(argv, prog)
    with sigint_deferred():
        import torch

        from videofib.bench.attention_speed import machine
        from videofib.bench.model_speed import attention, measure

    try:
        for name in args.attention:
            attention(name)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, and torch finds no GPU on this machine")
    what = "train step" if args.train else "inference"
    title = (
        f"{what}{f', checkpointing {args.checkpointing}' if args.checkpointing else ''}, width "
        f"{args.width}, depth {args.depth}, {args.size} pixels, batch {args.batch}, "
        f"{'bfloat16' if args.bfloat16 else 'float32'}, {machine(args.device)}"
    )
    print(f"{title}; torch {torch.__version__}, Python {platform.python_version()}")
    titles = ("frames", "tokens", "attention", "s/step", "clips/s", "ratio", "peak GiB")
    print("{:>6} {:>7} {:21} {:>9} {:>9} {:>7} {:>9}".format(*titles))
    rows = []
    for frames in args.frames:
        for row in measure(args, frames):
            rows.append(row)
            print(line(row), flush=True)
    if args.json:
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps({"setting": title, "rows": rows}, indent=1) + "\n")
    if args.plot:
        draw(rows, title, args.plot)


def line(row: dict) -> str:
    return (
        f"{row['frames']:6} {row['tokens']:7} {row['attention']:21} {row['seconds']:9.3f} "
        f"{row['clips_per_second']:9.3f} {row['ratio']:7.2f} {row['peak_gib']:9.2f}"
    )


def draw(rows: list[dict], title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, key, label in zip(figure.subplots(1, 2), ("seconds", "peak_gib"), ("s / step", "peak GiB"), strict=True):
        for attention, marker in zip(
            dict.fromkeys(row["attention"] for row in rows), itertools.cycle(_MARKERS), strict=False
        ):
            points = [(row["frames"], row[key]) for row in rows if row["attention"] == attention]
            axes.plot(*zip(*points, strict=True), f"{marker}-", label=attention)
        frames = sorted({row["frames"] for row in rows})
        axes.set(xlabel="frames", ylabel=label, xticks=frames, ylim=(0, None))
        axes.grid(True, alpha=0.2)
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix[1:])


def arguments(argv: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 32])
    parser.add_argument(
        "--attention",
        nargs="+",
        default=["joint", "joint_fibottention"],
        metavar="NAME",
        help="space_only, divided or joint, which are dense, or one of these with a mixer, such as joint_xcit; with "
        "+skip at the end, such as joint+skip, blocks skip attention (SkipAt)",
    )
    parser.add_argument(
        "--skipped", type=int, nargs="+", default=[3, 4, 5, 6, 7, 8], metavar="BLOCK", help="blocks that skip attention"
    )
    parser.add_argument(
        "--options", type=mixer_options, default={}, help='of mixers, such as \'{"dape": {"kernel": 3}}\''
    )
    parser.add_argument("--pooling", choices=_POOLINGS, default="class_token", help="where the features come from")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--train", action="store_true", help="training steps instead of inference")
    parser.add_argument(
        "--checkpointing", nargs="?", const="block", choices=_RECOMPUTE, help="activation checkpointing in training"
    )
    parser.add_argument("--warmup", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each contender")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture of time and memory against frames")
    args = parser.parse_args(argv)
    if args.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if min(*args.frames, args.size, args.width, args.depth, args.heads, args.batch, args.repeats) < 1:
        parser.error("numbers and sizes must be at least 1")
    return args
