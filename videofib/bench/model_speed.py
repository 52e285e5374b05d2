"""How long a step of complete models takes, each in a process of its own, in one run."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from videofib.mixers import MIXERS, check_name
from videofib.models import TimeSformer

CLASSES = 400
TYPES = {  # in names -> attention_type, and the arguments that choose its mixers
    "space_only": ("space_only", ("space_attention",)),
    "divided": ("divided_space_time", ("space_attention", "time_attention")),
    "joint": ("joint_space_time", ("joint_attention",)),
}


SKIP = "+skip"  # at the end of a name: some blocks skip attention


def attention(name: str, skipped: Sequence[int] = ()) -> dict[str, Any]:
    """The arguments of TimeSformer for a name such as ``joint``, ``joint+skip`` or ``divided_fibottention``.

    Args:
        skipped: the blocks that skip attention where the name ends with ``+skip``.

    Raises:
        ValueError: it stands for none.
    """
    if name.endswith(SKIP):
        return {**attention(name.removesuffix(SKIP)), "skip_attention": tuple(skipped)}
    for prefix, (attention_type, settings) in TYPES.items():
        mixer = name.removeprefix(f"{prefix}_") if name != prefix else "dense"
        if mixer != name:
            check_name("mixer in --attention", mixer, MIXERS)
            return {"attention_type": attention_type, **dict.fromkeys(settings, mixer)}
    raise ValueError(f"--attention {name} begins with none of {', '.join(TYPES)}")


def step(args: argparse.Namespace, name: str, frames: int) -> Callable[[], None]:
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
        mixer_options=args.options,
        pooling=args.pooling,
        **attention(name, args.skipped),
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

    times: dict[str, list[float]] = {attention: [] for attention in args.attention}
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
