"""Speed and memory of models with different attention types, in one run.

    python tools/benchmark_model.py --frames 8 32 --attention joint joint_fibottention
    python tools/benchmark_model.py --frames 96 --attention joint_fibottention --train --checkpointing

The model is TimeSformer-B at 224 pixels by default. Every contender runs in a process of its own; they take turns of
one step, so that a slow moment of the machine affects all of them. Figures are medians over turns, without the first
step. Ratios are to the first attention type. Peak memory is the most that the process held (on CUDA, its tensors):
parameters, activations and, in training, gradients and AdamW's two moments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from videofib.files import replacing
from videofib.models import TimeSformer
from videofib.models.recompute import RECOMPUTE

MARKERS = "os^Dv"  # of lines, which differ not in colour alone
CLASSES = 400
ATTENTIONS = {
    "space_only": dict(attention_type="space_only"),
    "divided": dict(attention_type="divided_space_time"),
    "divided_fibottention": dict(
        attention_type="divided_space_time", space_attention="fibottention", time_attention="fibottention"
    ),
    "joint": dict(attention_type="joint_space_time"),
    "joint_fibottention": dict(attention_type="joint_space_time", joint_attention="fibottention"),
}


def step(args: argparse.Namespace, attention: str, frames: int) -> Callable[[], None]:
    """One step of a model with random weights, on random clips."""
    torch.manual_seed(0)
    model = TimeSformer(
        img_size=args.size,
        num_classes=CLASSES,
        num_frames=frames,
        embed_dim=args.width,
        depth=args.depth,
        num_heads=args.heads,
        gradient_checkpointing=args.checkpointing is not None,
        recompute=args.checkpointing or "block",
        **ATTENTIONS[attention],
    ).to(args.device)
    clips = torch.randn(args.batch, 3, frames, args.size, args.size, device=args.device)
    labels = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())

    def train() -> None:
        with autocast:
            loss = F.cross_entropy(model(clips), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def infer() -> None:
        with torch.inference_mode(), autocast:
            model(clips)

    model.train(args.train)
    return train if args.train else infer


def work(connection, args: argparse.Namespace, attention: str, frames: int) -> None:
    """Answer each True with the seconds of a step, and anything else with the peak memory in bytes."""
    run = step(args, attention, frames)
    while connection.recv() is True:
        start = time.perf_counter()
        run()
        if args.device == "cuda":
            torch.cuda.synchronize()
        connection.send(time.perf_counter() - start)
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    connection.send(peak)


def measure(args: argparse.Namespace, frames: int) -> list[dict]:
    """One row for each attention type."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for attention in args.attention:
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(theirs, args, attention, frames), daemon=True).start()
        theirs.close()  # so that reading fails when the worker dies
        workers[attention] = ours

    def ask(attention: str, message: object) -> float:
        try:
            workers[attention].send(message)
            return workers[attention].recv()
        except (EOFError, OSError):
            raise SystemExit(f"{attention}, {frames} frames: its process died, possibly out of memory") from None

    times = {attention: [] for attention in args.attention}
    for turn in range(args.warmup + args.repeats):
        for attention, taken in times.items():
            seconds = ask(attention, True)
            if turn >= args.warmup:
                taken.append(seconds)
    first = statistics.median(times[args.attention[0]])
    return [
        {
            "frames": frames,
            "tokens": frames * (args.size // 16) ** 2,
            "attention": attention,
            "seconds": (median := statistics.median(taken)),
            "clips_per_second": args.batch / median,
            "ratio": first / median,
            "peak_gib": ask(attention, None) / 2**30,
        }
        for attention, taken in times.items()
    ]


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
            dict.fromkeys(row["attention"] for row in rows), itertools.cycle(MARKERS), strict=False
        ):
            points = [(row["frames"], row[key]) for row in rows if row["attention"] == attention]
            axes.plot(*zip(*points, strict=True), f"{marker}-", label=attention)
        frames = sorted({row["frames"] for row in rows})
        axes.set(xlabel="frames", ylabel=label, xticks=frames, ylim=(0, None))
        axes.grid(True, alpha=0.2)
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix[1:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--attention", choices=ATTENTIONS, nargs="+", default=["joint", "joint_fibottention"])
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--train", action="store_true", help="training steps instead of inference")
    parser.add_argument(
        "--checkpointing", nargs="?", const="block", choices=RECOMPUTE, help="activation checkpointing in training"
    )
    parser.add_argument("--warmup", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each contender")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture of time and memory against frames")
    args = parser.parse_args(argv)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    what = "train step" if args.train else "inference"
    title = (
        f"{what}{f', checkpointing {args.checkpointing}' if args.checkpointing else ''}, width "
        f"{args.width}, depth {args.depth}, {args.size} pixels, batch {args.batch}, "
        f"{'bfloat16' if args.bfloat16 else 'float32'}, {machine}"
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


if __name__ == "__main__":
    main()
