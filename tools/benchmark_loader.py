"""Clips per second and CPU time of the training loader, bare decord, and plain loaders, in one run.

    python tools/benchmark_loader.py --data data/ucf101 --size 112 224 --rate 4 32 --plot loader.png

``bare decord``        as many processes as workers read the same frames of the same videos with ``get_batch``, one
                       decord thread each, and discard them: no transforms, no batches
``plain decord``,      torch's DataLoader over a data set as one writes it with these libraries: they seek to the
``plain torchcodec``   frames, which are normalised, scaled, cropped and flipped as float tensors
``plain whole video``  the same, but like PySlowFast PyAV decodes the entire video, of which the frames are chosen
``videofib auto``      videofib's own loader, with each of the backends

A turn is a pass over the same clips, from the request of the first batch to the arrival of the last. Contenders take
turns, so that a slow moment of the machine affects all of them; the first ones do not count. Speed is the clips of a
turn over the median time of a turn. CPU time is that of all processes of this program in a turn. With ``--load`` other
processes compete for the cores. Shares are of the workers' time in all turns: decoding, transforms, and the rest
(transfer, waiting, idling).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from videofib.data.clips.dataset import ClipDataset, ClipSpec, ReadClips
from videofib.data.clips.transforms import TrainTransform
from videofib.data.lists.record import VideoRecord
from videofib.data.lists.splits import load_split
from videofib.data.loading.loader import VideoLoader
from videofib.data.samplers import EpochSampler, shuffled
from videofib.files import replacing

MEAN, STD = [0.45] * 3, [0.225] * 3
BATCH = 8


@dataclass(frozen=True)
class Setting:
    """What a comparison holds fixed: pixels of the views, workers, distance of the frames at 30 fps, busy processes."""

    size: int
    workers: int
    rate: int
    load: int
    frames: int


@dataclass
class Turn:
    """Seconds of a pass; of CPU time, and of decoding and of transforms over all workers, where that is known."""

    seconds: float
    cpu: float | None = None
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


def videofib(records: Sequence[VideoRecord], setting: Setting, backend: str) -> Callable[[], Turn]:
    spec = ClipSpec(setting.frames, setting.rate, 30, backend)
    transform = TimedTransform(setting.size, jitter(setting.size), flip=True, mean=MEAN, std=STD)
    dataset = ClipDataset(records, spec, transform)
    dataset.read = TimedRead(spec, transform, 1)
    order = EpochSampler(shuffled(len(records), 0), BATCH)
    loader = VideoLoader(dataset, order, BATCH, num_workers=setting.workers)

    def turn() -> Turn:
        start = time.perf_counter()
        decoding = transforms = 0.0
        for batch in loader:
            first = batch["views"].flatten(1)[:, :2].double().sum(0).tolist()
            decoding, transforms = decoding + first[0], transforms + first[1]
        return Turn(time.perf_counter() - start, None, decoding, transforms)

    return turn


def bare_decord(records: Sequence[VideoRecord], setting: Setting) -> Callable[[], Turn]:
    spec = ClipSpec(setting.frames, setting.rate, 30)
    work = []
    for _, index, _ in EpochSampler(shuffled(len(records), 0), BATCH):
        record = records[index]
        if record.num_frames is None:
            raise SystemExit(f"{record.path} has no number of frames in a manifest; prepare the data set")
        (clip,) = spec.train_clips(record.num_frames, record.fps, 1, random.Random(f"0/0/{index}"))
        work.append((record.path, clip))
    pool = multiprocessing.get_context("forkserver").Pool(setting.workers, torch.set_num_threads, (1,))

    def turn() -> Turn:
        start = time.perf_counter()
        decoding = sum(pool.imap_unordered(get_batch, work))
        return Turn(time.perf_counter() - start, None, decoding, 0.0)

    return turn


def get_batch(work: tuple[str, list[int]]) -> float:
    """Seconds of reading frames as in decord's own example."""
    import decord

    start = time.perf_counter()
    path, indices = work
    decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()
    return time.perf_counter() - start


def read_with_decord(path: str, choose: Callable[[int, float], Tensor]) -> Tensor:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return torch.from_numpy(reader.get_batch(choose(len(reader), reader.get_avg_fps()).tolist()).asnumpy())


def read_with_torchcodec(path: str, choose: Callable[[int, float], Tensor]) -> Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    indices = choose(decoder.metadata.num_frames, decoder.metadata.average_fps)
    return decoder.get_frames_at(indices.tolist()).data


def read_whole(path: str, choose: Callable[[int, float], Tensor]) -> Tensor:
    import av

    with av.open(path, metadata_errors="replace") as container:
        fps = float(container.streams.video[0].average_rate)
        video = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return torch.index_select(torch.from_numpy(video), 0, choose(len(video), fps))


class PlainClips(Dataset):
    """Choose frames, read them, and transform them as float tensors: the simplest data set."""

    def __init__(self, records: Sequence[VideoRecord], setting: Setting, read: Callable[..., Tensor]):
        self.records, self.setting, self.read = records, setting, read

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record, rng, size = self.records[index], random.Random(index), self.setting.size

        def choose(num_frames: int, fps: float) -> Tensor:
            span = self.setting.rate * self.setting.frames / 30 * fps
            start = rng.uniform(0, max(num_frames - span, 0))
            return torch.linspace(start, start + span - 1, self.setting.frames).clamp(0, num_frames - 1).long()

        clip = self.read(record.path, choose).float() / 255  # (T, H, W, C)
        clip = ((clip - torch.tensor(MEAN)) / torch.tensor(STD)).permute(3, 0, 1, 2)  # (C, T, H, W)
        height, width = clip.shape[-2:]
        side = rng.randint(*jitter(size))
        scale = side / min(height, width)
        scaled = max(side, int(height * scale)), max(side, int(width * scale))
        clip = F.interpolate(clip, size=scaled, mode="bilinear", align_corners=False)
        top, left = rng.randint(0, scaled[0] - size), rng.randint(0, scaled[1] - size)
        clip = clip[:, :, top : top + size, left : left + size]
        return (clip.flip(-1) if rng.random() < 0.5 else clip).contiguous(), record.label


def plain(records: Sequence[VideoRecord], setting: Setting, read: Callable[..., Tensor]) -> Callable[[], Turn]:
    loader = DataLoader(
        PlainClips(records, setting, read),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
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


def measure(records: Sequence[VideoRecord], setting: Setting, turns: int, backends: Sequence[str]) -> list[dict]:
    """One row for each contender."""
    readers = {
        "plain decord": read_with_decord,
        "plain torchcodec": read_with_torchcodec,
        "plain whole video": read_whole,
    }
    if importlib.util.find_spec("torchcodec") is None:
        del readers["plain torchcodec"]
    contenders = {
        "bare decord": bare_decord(records, setting),
        **{name: plain(records, setting, read) for name, read in readers.items()},
        **{f"videofib {name}": videofib(records, setting, name) for name in backends},
    }
    taken: dict[str, list[Turn]] = {name: [] for name in contenders}
    with busy(setting.load) as others:
        for _ in range(1 + turns):
            for name, take in contenders.items():
                before = cpu_seconds(others)
                turn = take()
                taken[name].append(replace(turn, cpu=cpu_seconds(others) - before))
    clips = len(records) // BATCH * BATCH
    rows = []
    for name, (_, *counted) in taken.items():
        rows.append({"loader": name, **vars(setting), **figures(counted, clips, setting.workers)})
    for row in rows:
        row["against"] = {
            other["loader"]: [
                row["clips_per_second"] / other["clips_per_second"],
                # Linux counts CPU time in ticks of 10 ms: turns that took less show none, and have no ratio
                other["cpu_ms_per_clip"] / row["cpu_ms_per_clip"] if row["cpu_ms_per_clip"] else None,
            ]
            for other in rows
            if not other["loader"].startswith("videofib")
        }
    return rows


def figures(turns: Sequence[Turn], clips: int, workers: int) -> dict[str, float]:
    """The speed of turns of ``clips`` each, their CPU time, and what their workers spent their time on, where known."""
    seconds = [turn.seconds for turn in turns]
    shares = {
        part: sum(getattr(turn, part) for turn in turns) / (workers * sum(seconds))
        for part in ("decoding", "transforms")
        if getattr(turns[0], part) is not None
    }
    cpu = 1000 * statistics.median(turn.cpu for turn in turns) / clips
    return {"clips_per_second": clips / statistics.median(seconds), "cpu_ms_per_clip": cpu, **shares}


@contextmanager
def busy(count: int) -> Iterator[set[int]]:
    """Keep ``count`` processes busy meanwhile; yields their numbers."""
    others = [multiprocessing.get_context("fork").Process(target=spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    yield {other.pid for other in others}
    for other in others:
        other.kill()


def spin() -> None:
    while True:
        pass


def cpu_seconds(without: set[int]) -> float:
    """CPU time so far of this process and those that it started, directly or not; as Linux counts it."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])  # user and system
    own = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in own} - own - without:
        own |= found
    return sum(ticks[pid] for pid in own) / os.sysconf("SC_CLK_TCK")


def table(rows: Sequence[dict]) -> str:
    """Ratios, above 1 where the row is better, are of clips a second; of CPU time a clip."""
    others = list(rows[0]["against"])
    heads = ["loader", "size", "workers", "rate", "load", "clips/s", "CPU ms/clip", *(f"× {name}" for name in others)]
    heads += ["decoding", "transforms", "rest"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        cells = [row["loader"], *(str(row[name]) for name in ("size", "workers", "rate", "load"))]
        cells += [f"{row['clips_per_second']:.1f}", f"{row['cpu_ms_per_clip']:.1f}"]
        cells += ["; ".join("–" if r is None else f"{r:.2f}" for r in row["against"][name]) for name in others]
        parts = [row[name] for name in ("decoding", "transforms") if name in row]
        cells += [f"{part:.0%}" for part in [*parts, 1 - sum(parts)]] if parts else ["–"] * 3
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[dict], file: Path) -> None:
    """Bars of clips per second, divided by shares where these are known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = sorted({panel_of(row) for row in rows})
    names = list(dict.fromkeys(row["loader"] for row in rows))
    figure = Figure(figsize=(8, 0.6 + len(panels) * (0.5 + 0.3 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"decoding": "#4472a8", "transforms": "#e0a030", "rest or not measured": "#b9b9b9"}
    for ax, panel in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False).ravel(), panels, strict=True):
        for row in (row for row in rows if panel_of(row) == panel):
            left = 0.0
            shares = {name: row[name] for name in ("decoding", "transforms") if name in row}
            for name, share in {**shares, "rest or not measured": 1 - sum(shares.values())}.items():
                ax.barh(row["loader"], share * row["clips_per_second"], left=left, color=colours[name])
                left += share * row["clips_per_second"]
            ax.text(left, row["loader"], f" {row['clips_per_second']:.0f}", va="center", fontsize=8)
        ax.invert_yaxis()
        size, workers, rate, load = panel
        title = f"{size} pixels, {workers} worker(s), frames {rate} apart, {load} other busy process(es)"
        ax.set_title(title, fontsize=9, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    ax.set_xlabel("clips per second; colours: shares of the workers' time", fontsize=8)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    with replacing(file) as partial:
        figure.savefig(partial, dpi=120, format=file.suffix[1:])


def panel_of(row: dict) -> tuple[int, int, int, int]:
    return row["size"], row["workers"], row["rate"], row["load"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared data set; its train split is read")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rate", type=int, nargs="+", default=[32], help="distance of frames, in frames at 30 fps")
    parser.add_argument("--size", type=int, nargs="+", default=[112, 224], help="pixels of the views")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="processes")
    parser.add_argument("--load", type=int, nargs="+", default=[0], help="other processes that keep cores busy")
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
    for size, workers, rate, load in itertools.product(args.size, args.workers, args.rate, args.load):
        rows += measure(records, Setting(size, workers, rate, load, args.frames), args.turns, args.backends)
    print(table(rows))
    if args.json:
        with replacing(args.json) as partial:
            partial.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
