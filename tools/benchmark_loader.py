"""Clips per second of the training loader, bare decord, and a loader that decodes whole videos, in one run.

    python tools/benchmark_loader.py --data data/ucf101 --size 112 224 --workers 1 2 --plot loader.png

``bare decord``     as many processes as workers read the same frames of the same videos with ``get_batch``, one
                    decord thread each, and discard them: no transforms, no batches
``whole video``     a loader like PySlowFast's: PyAV decodes the whole video; the frames are chosen, normalised, scaled,
                    cropped and flipped as float tensors in workers of torch's DataLoader
``videofib auto``   videofib's own loader, with each of the backends

A turn is a pass over the same clips, from the request of the first batch to the arrival of the last. Contenders take
turns, so that a slow moment of the machine affects all of them; the first ones do not count. Speed is the clips of a
turn over the median time of a turn. Shares are of the workers' time in all turns: decoding, transforms, and the rest
(transfer, waiting, idling).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from videofib.data.clips.dataset import ClipDataset, ClipSpec, ReadClips
from videofib.data.clips.transforms import TrainTransform
from videofib.data.lists.manifest import load_split
from videofib.data.lists.record import VideoRecord
from videofib.data.loading.loader import VideoLoader
from videofib.data.samplers import EpochSampler, shuffled
from videofib.files import replacing

MEAN, STD = [0.45] * 3, [0.225] * 3
BATCH = 8


@dataclass
class Turn:
    """Seconds of a pass; of decoding and of transforms over all workers, where that is known."""

    seconds: float
    decoding: float | None = None
    transforms: float | None = None


class TimedTransform(TrainTransform):
    """Writes the seconds of the transform into the second value of the view."""

    def __call__(self, frames: np.ndarray, rng: random.Random, out: Tensor | None = None) -> Tensor:
        start = time.perf_counter()
        view = super().__call__(frames, rng, out)
        view.view(-1)[1] = time.perf_counter() - start
        return view


class TimedRead(ReadClips):
    """Writes the seconds of decoding into the first value of the view."""

    def __call__(self, record: VideoRecord, seed: str, out: Tensor) -> None:
        start = time.perf_counter()
        super().__call__(record, seed, out)
        out.view(-1)[0] = time.perf_counter() - start - out.view(-1)[1].item()


def videofib(records: Sequence[VideoRecord], args, size: int, workers: int, backend: str) -> Callable[[], Turn]:
    spec = ClipSpec(args.frames, args.rate, 30, backend)
    transform = TimedTransform(size, jitter(size), flip=True, mean=MEAN, std=STD)
    dataset = ClipDataset(records, spec, transform)
    dataset.read = TimedRead(spec, transform, 1)
    loader = VideoLoader(dataset, EpochSampler(shuffled(len(records), 0), BATCH), BATCH, num_workers=workers)

    def turn() -> Turn:
        start = time.perf_counter()
        decoding = transforms = 0.0
        for batch in loader:
            first = batch["views"].flatten(1)[:, :2].double().sum(0).tolist()
            decoding, transforms = decoding + first[0], transforms + first[1]
        return Turn(time.perf_counter() - start, decoding, transforms)

    return turn


def bare_decord(records: Sequence[VideoRecord], args, size: int, workers: int) -> Callable[[], Turn]:
    spec = ClipSpec(args.frames, args.rate, 30)
    order = [index for _, index, _ in EpochSampler(shuffled(len(records), 0), BATCH)]
    work = []
    for index in order:
        record = records[index]
        if record.num_frames is None:
            raise SystemExit(f"{args.data} has no manifest, which has the numbers of frames; prepare the data set")
        (clip,) = spec.train_clips(record.num_frames, record.fps, 1, random.Random(f"0/0/{index}"))
        work.append((record.path, clip))
    pool = multiprocessing.get_context("forkserver").Pool(workers, torch.set_num_threads, (1,))

    def turn() -> Turn:
        start = time.perf_counter()
        decoding = sum(pool.imap_unordered(get_batch, work))
        return Turn(time.perf_counter() - start, decoding, 0.0)

    return turn


def get_batch(work: tuple[str, list[int]]) -> float:
    """Seconds of reading frames as in decord's own example."""
    import decord

    start = time.perf_counter()
    path, indices = work
    decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()
    return time.perf_counter() - start


class WholeVideos(Dataset):
    """Decode every frame, then choose: the simplest data loader."""

    def __init__(self, records: Sequence[VideoRecord], args, size: int):
        self.records, self.frames, self.rate, self.size = records, args.frames, args.rate, size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import av

        record, rng = self.records[index], random.Random(index)
        with av.open(record.path, metadata_errors="replace") as container:
            fps = float(container.streams.video[0].average_rate)
            video = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        span = self.rate * self.frames / 30 * fps
        start = rng.uniform(0, max(len(video) - span, 0))
        indices = torch.linspace(start, start + span - 1, self.frames).clamp(0, len(video) - 1).long()
        clip = torch.index_select(torch.from_numpy(video), 0, indices).float() / 255  # (T, H, W, C)
        clip = ((clip - torch.tensor(MEAN)) / torch.tensor(STD)).permute(3, 0, 1, 2)  # (C, T, H, W)
        height, width = clip.shape[-2:]
        side = rng.randint(*jitter(self.size))
        scale = side / min(height, width)
        scaled = max(side, int(height * scale)), max(side, int(width * scale))
        clip = F.interpolate(clip, size=scaled, mode="bilinear", align_corners=False)
        top, left = rng.randint(0, scaled[0] - self.size), rng.randint(0, scaled[1] - self.size)
        clip = clip[:, :, top : top + self.size, left : left + self.size]
        return (clip.flip(-1) if rng.random() < 0.5 else clip).contiguous(), record.label


def whole_videos(records: Sequence[VideoRecord], args, size: int, workers: int) -> Callable[[], Turn]:
    loader = DataLoader(
        WholeVideos(records, args, size),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="forkserver",
        worker_init_fn=one_thread,
    )

    def turn() -> Turn:
        start = time.perf_counter()
        for _ in loader:
            pass
        return Turn(time.perf_counter() - start)

    return turn


def one_thread(worker_id: int) -> None:
    torch.set_num_threads(1)


def jitter(size: int) -> tuple[int, int]:
    """The range of short sides of the usual recipe: 256 to 320 for views of 224 pixels."""
    return round(size * 256 / 224), round(size * 320 / 224)


def measure(records: Sequence[VideoRecord], args, size: int, workers: int) -> list[dict]:
    """One row for each contender."""
    contenders = {
        "bare decord": bare_decord(records, args, size, workers),
        "whole video": whole_videos(records, args, size, workers),
        **{f"videofib {name}": videofib(records, args, size, workers, name) for name in args.backends},
    }
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(1 + args.turns):
        for name, take in contenders.items():
            turns[name].append(take())
    clips = len(records) // BATCH * BATCH
    rows = []
    for name, (_, *counted) in turns.items():
        rows.append({"loader": name, "size": size, "workers": workers, **figures(counted, clips, workers)})
    for row in rows:
        row["of_bare_decord"] = row["clips_per_second"] / rows[0]["clips_per_second"]
        row["of_whole_video"] = row["clips_per_second"] / rows[1]["clips_per_second"]
    return rows


def figures(turns: Sequence[Turn], clips: int, workers: int) -> dict[str, float]:
    """The speed of turns of ``clips`` each, and what their workers spent their time on, where that is known."""
    seconds = [turn.seconds for turn in turns]
    shares = {
        part: sum(getattr(turn, part) for turn in turns) / (workers * sum(seconds))
        for part in ("decoding", "transforms")
        if getattr(turns[0], part) is not None
    }
    return {"clips_per_second": clips / statistics.median(seconds), **shares}


def table(rows: Sequence[dict]) -> str:
    lines = ["| loader | size | workers | clips/s | of bare decord | of whole video | decoding | transforms | rest |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        shares = "| – | – | – |"
        if "decoding" in row:
            parts = row["decoding"], row["transforms"], 1 - row["decoding"] - row["transforms"]
            shares = "| " + " | ".join(f"{part:.0%}" for part in parts) + " |"
        lines.append(
            f"| {row['loader']} | {row['size']} | {row['workers']} | {row['clips_per_second']:.1f} | "
            f"{row['of_bare_decord']:.2f} | {row['of_whole_video']:.2f} {shares}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[dict], file: Path) -> None:
    """Bars of clips per second, divided by shares where these are known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = sorted({(row["size"], row["workers"]) for row in rows})
    names = list(dict.fromkeys(row["loader"] for row in rows))
    figure = Figure(figsize=(8, 0.6 + len(panels) * (0.5 + 0.3 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"decoding": "#4472a8", "transforms": "#e0a030", "rest or not measured": "#b9b9b9"}
    for ax, panel in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False).ravel(), panels, strict=True):
        for row in (row for row in rows if (row["size"], row["workers"]) == panel):
            left = 0.0
            shares = {name: row[name] for name in ("decoding", "transforms") if name in row}
            for name, share in {**shares, "rest or not measured": 1 - sum(shares.values())}.items():
                ax.barh(row["loader"], share * row["clips_per_second"], left=left, color=colours[name])
                left += share * row["clips_per_second"]
            ax.text(left, row["loader"], f" {row['clips_per_second']:.0f}", va="center", fontsize=8)
        ax.invert_yaxis()
        ax.set_title(f"{panel[0]} pixels, {panel[1]} worker(s)", fontsize=9, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    ax.set_xlabel("clips per second; colours: shares of the workers' time", fontsize=8)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(file, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared data set; its train split is read")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rate", type=int, default=32, help="distance of a clip's frames, in frames at 30 fps")
    parser.add_argument("--size", type=int, nargs="+", default=[112, 224], help="pixels of the views")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="processes")
    parser.add_argument("--backends", nargs="+", default=["auto"], help="of videofib's loader")
    parser.add_argument("--clips", type=int, default=160, help="clips of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture, .png or .svg (needs matplotlib)")
    args = parser.parse_args(argv)
    records = load_split(args.data, "train")
    records = random.Random(0).sample(records, min(args.clips, len(records)))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {len(records)} videos\n")
    rows = []
    for size in args.size:
        for workers in args.workers:
            rows += measure(records, args, size, workers)
    print(table(rows))
    if args.json:
        with replacing(args.json) as partial:
            partial.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
