"""Context parallelism against one process: differences of results, memory and time, in one run.

    python tools/benchmark_context.py --processes 1 2 4 --frames 32 --size base --depth 4

For each number of processes, new ones make training steps of the same joint space-time TimeSformer on the same clip, in
float32: forward, backward, gradients averaged as in training. Without GPUs the processes share the cores of the
machine, so times show the cost of communication and not the gain from more machines.

``before``   memory of a process before the first step: imports, weights, gradients and the buckets of their averaging,
             the clip, the compiled kernels
``more``     the most memory beyond that during the first step: activations and communication buffers
Both are resident memory (Linux) or a GPU's allocated memory; the maximum over processes.
``logits`` and ``gradients`` are the largest differences from the first number of processes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from videofib.attention import CONTEXT_MODES, ContextGroup, Support, context_parallel_attention, sparse_attention
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.models.timesformer import SIZES, TimeSformer

CLASSES = 400
_M_MMAP_THRESHOLD = -3  # of the C library's mallopt: larger allocations get pages of their own


def resident(what: str) -> int:
    """Bytes of memory of this process: ``VmRSS`` now, ``VmHWM`` at most since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {what}")


class PeakMemory:
    """The memory of this process at construction, and the peak since."""

    def __init__(self):
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # memory that is free already would hide new allocations
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            self.before = resident("VmRSS")

    def more(self) -> int:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident("VmHWM")
        return peak - self.before


def build(args: argparse.Namespace) -> nn.Module:
    """The model; all processes share its clips."""
    torch.manual_seed(0)
    size = SIZES[args.size]
    model = TimeSformer(
        **{**size, "depth": args.depth or size["depth"], "num_heads": args.heads or size["num_heads"]},
        num_classes=CLASSES,
        img_size=args.crop_size,
        num_frames=args.frames,
        attention_type="joint_space_time",
        joint_attention=args.attention,
        drop_path_rate=0.0,
        gradient_checkpointing=args.checkpointing,
    )
    model = model.to(processes.device()).train()
    if processes.world_size() > 1:
        model.share_tokens(ContextGroup(mode=args.mode))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter).zero_()  # written to, so that its pages are resident
    return model


def compile_kernels() -> None:
    """Compile now, so that the compiler does not count as memory of the step."""
    support = Support.fibottention(2, 8)
    q = torch.randn(1, 2, 9, 64, device=processes.device(), requires_grad=True)
    sparse_attention(q, q, q, support).sum().backward()
    if processes.world_size() > 1:
        tokens = ContextGroup(mode="halo").slice(9)
        q = torch.randn(1, 2, len(tokens.positions), 64, device=processes.device(), requires_grad=True)
        context_parallel_attention(q, q, q, support, tokens).sum().backward()


def work(args: argparse.Namespace, folder: Path) -> None:
    """Steps of one process; writes its figures, and the main process also logits and gradients."""
    if not torch.cuda.is_available():  # freed tensors are returned to the system and do not count
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    compile_kernels()
    model = build(args)
    replica = processes.replicate(model)
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(args.batch, 3, args.frames, args.crop_size, args.crop_size, generator=generator)
    clip, labels = clip.to(processes.device()), torch.arange(args.batch, device=processes.device())

    memory, seconds = PeakMemory(), []
    for step in range(1 + args.repeats):
        start = time.perf_counter()
        for parameter in model.parameters():
            parameter.grad.zero_()
        logits = replica(clip)
        F.cross_entropy(logits, labels).backward()
        seconds.append(time.perf_counter() - start if not torch.cuda.is_available() else _synchronized(start))
        if step == 0:
            figures = {"before": memory.before, "more": memory.more()}
    name = f"{processes.world_size()}-{processes.rank()}"
    figures["seconds"] = statistics.median(seconds[1:] or seconds)
    (folder / f"{name}.json").write_text(json.dumps(figures))
    if processes.is_main():
        gradients = {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}
        torch.save({"logits": logits.detach().cpu(), "gradients": gradients}, folder / f"{name}.pt")


def _synchronized(start: float) -> float:
    torch.cuda.synchronize()
    return time.perf_counter() - start


def start(args: argparse.Namespace, processes: int, folder: Path) -> None:
    launch(work, (args, folder), processes=processes)


def row(processes: int, first: int, folder: Path) -> dict:
    """The figures of a number of processes, compared with those of ``first``."""
    figures = [json.loads((folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]
    found, expected = (torch.load(folder / f"{count}-0.pt", weights_only=True) for count in (processes, first))
    differences = [(found["gradients"][name] - value).abs().max() for name, value in expected["gradients"].items()]
    return {
        "processes": processes,
        **{f"{key}_mib": round(max(figure[key] for figure in figures) / 2**20) for key in ("before", "more")},
        "seconds": round(max(figure["seconds"] for figure in figures), 2),
        "logits": (found["logits"] - expected["logits"]).abs().max().item(),
        "gradients": max(differences).item(),
        "largest_gradient": max(value.abs().max() for value in expected["gradients"].values()).item(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--frames", type=int, default=32, help="N = frames x (crop size / 16) squared tokens")
    parser.add_argument("--crop-size", type=int, default=224)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--depth", type=int, default=0, help="blocks; 0 (default): those of the size")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--attention", choices=("fibottention", "dense"), default="fibottention")
    parser.add_argument("--mode", choices=CONTEXT_MODES, default="auto", help="what processes exchange for attention")
    parser.add_argument("--heads", type=int, default=0, help="attention heads; 0 (default): those of the size")
    parser.add_argument("--checkpointing", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--repeats", type=int, default=2, help="timed steps, after one that is not timed")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for processes in args.processes:
            # a new process, since this one's memory would depend on the runs before
            started = multiprocessing.get_context("spawn").Process(target=start, args=(args, processes, Path(folder)))
            started.start()
            started.join()
            if started.exitcode:
                raise SystemExit(started.exitcode)
            rows.append(row(processes, args.processes[0], Path(folder)))
            print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
