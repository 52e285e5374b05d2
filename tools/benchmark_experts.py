"""A model with experts against dense models, in turns: inference, and a step of training.

    python tools/benchmark_experts.py --frames 32 --size 224 --dim 384 --depth 4 --experts 8 --top-k 2

``active`` has MLPs as wide as the experts of a token together, and so the same multiply-adds; ``parameters`` has MLPs
so wide that it has as many parameters. A ratio is that of medians: above 1, experts are faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from videofib.bench.attention_speed import machine
from videofib.models import TimeSformer
from videofib.models.profiling import forward_multiply_adds

MLP_RATIO = 4.0


def models(args: argparse.Namespace) -> dict[str, TimeSformer]:
    """The model with experts, and the dense ones that are compared with it."""
    common = dict(
        img_size=args.size,
        patch_size=args.patch,
        num_frames=args.frames,
        num_classes=10,
        embed_dim=args.dim,
        depth=args.depth,
        num_heads=args.heads,
        drop_path_rate=0.0,
        attention_type="joint_space_time",
        joint_attention="fibottention",
    )
    found = {
        "experts": TimeSformer(**common, experts={"num": args.experts, "top_k": args.top_k}),
        "active": TimeSformer(**common, mlp_ratio=MLP_RATIO),
    }
    more = sum(p.numel() for p in found["experts"].parameters()) - sum(p.numel() for p in found["active"].parameters())
    ratio = MLP_RATIO + more / args.depth / (2 * args.dim**2)
    return {**found, "parameters": TimeSformer(**common, mlp_ratio=ratio)}


def infer(model: nn.Module, clips: torch.Tensor) -> None:
    with torch.inference_mode():
        model.eval()(clips)


def train(model: nn.Module, clips: torch.Tensor) -> None:
    model.train().zero_grad()
    logits, losses = model(clips, with_losses=True)
    sum(losses.values(), logits.square().mean()).backward()


def medians(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Seconds of each, which take turns; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(own[1:]) for name, own in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        *(("frames", 32), ("size", 224), ("patch", 16), ("dim", 384), ("depth", 4), ("heads", 6)),
        *(("experts", 8), ("top-k", 2), ("batch", 1), ("repeats", 7), ("threads", 1)),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found, clips = models(args), torch.randn(args.batch, 3, args.frames, args.size, args.size)
    print(machine(torch.device("cpu")))
    for name, model in found.items():
        amount = sum(p.numel() for p in model.parameters())
        cost = forward_multiply_adds(model, tuple(clips.shape[1:]))
        print(f"{name:12} {amount / 1e6:8.2f} M parameters, {cost / 1e9:8.2f} G multiply-adds a clip")
    for step in (infer, train):
        calls = {name: lambda model=model, step=step: step(model, clips) for name, model in found.items()}
        seconds = medians(calls, args.repeats)
        shown = ", ".join(
            f"{name} {own * 1e3:.0f} ms ({own / seconds['experts']:.2f} x)" for name, own in seconds.items()
        )
        print(f"{step.__name__:12} {shown}")


if __name__ == "__main__":
    main()
