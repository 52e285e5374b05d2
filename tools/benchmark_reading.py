"""Seconds to read a few frames of long films: the first time, later, and against plain PyAV, in one run.

    python tools/benchmark_reading.py --minutes 120 --containers mp4 mkv ts --checkout ../older
    python tools/benchmark_reading.py film.mp4

``plain seek``   PyAV seeks to the keyframe before each frame and decodes up to it; nothing is checked
``one pass``     PyAV reads all packets and decodes none
``first``        videofib reads the frames, and nothing is known of the film
``indexed``      what the first read has kept lies in the cache folder
``in memory``    the same process reads once more
``older``        the same rows, read by the videofib of ``--checkout``

An *unprepared* row has a path only, so its frames are counted, too; a *prepared* one states their number and rate. Each
read is a process of its own, timed once all is imported; contenders take turns, so that a slow moment of the machine
affects all. The files are in the system's cache, as far as memory allows. Figures are medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from videofib.files import replacing

FPS = 25
ROWS = ("prepared", "unprepared")
SETTLED = 1_600_000_000  # files that changed just now are not kept


def make(folder: Path, minutes: float, container: str) -> Path:
    """A film of 640 x 360 at about 2.5 Mbit/s: a minute of moving noise, repeated."""
    minute, film = folder / "minute.mp4", folder / f"film.{container}"
    ffmpeg = ["ffmpeg", "-v", "error", "-y"]
    picture = f"testsrc2=size=640x360:rate={FPS},noise=c0s=12:c1s=12:c2s=12:c0f=t:c1f=t:c2f=t"
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", str(10 * FPS), "-b:v", "2500k"]
    frames = round(min(minutes, 1) * 60 * FPS)
    if not minute.exists():
        subprocess.run([*ffmpeg, "-f", "lavfi", "-i", picture, "-frames:v", str(frames), *encode, minute], check=True)
    repeats = str(max(round(minutes) - 1, 0))
    subprocess.run([*ffmpeg, "-stream_loop", repeats, "-i", minute, "-c", "copy", film], check=True)
    os.utime(film, (SETTLED, SETTLED))
    return film


def plain_seek(path: str, indices: Sequence[int]) -> None:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        for index in indices:
            target = round(index / stream.average_rate / stream.time_base) + (stream.start_time or 0)
            container.seek(target, stream=stream)
            for frame in container.decode(stream):
                if frame.pts >= target:
                    frame.to_ndarray(format="rgb24")
                    break


def one_pass(path: str) -> int:
    import av

    with av.open(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def ours(path: str, indices: Sequence[int], count: int, row: str) -> None:
    from videofib.data.clips.dataset import ClipSpec, read_clips
    from videofib.data.lists.record import VideoRecord

    known = {"num_frames": count, "fps": float(FPS)} if row == "prepared" else {}
    read = list(read_clips(VideoRecord(path, 0, path, **known), ClipSpec(8, 32, FPS), lambda *_: [list(indices)]))
    frames = read[0][1] if isinstance(read[0], tuple) else read[0]  # older checkouts: the frames, then the clips
    assert len(frames) == len(indices)


def timed(contender: str, path: str, indices: Sequence[int], count: int) -> float:
    """Seconds of one contender in this process."""
    calls = {"plain seek": lambda: plain_seek(path, indices), "one pass": lambda: one_pass(path)}
    row = contender.split(", ")[-1]
    call = calls.get(contender, lambda: ours(path, indices, count, row))
    importlib.import_module("av" if contender in calls else "videofib.data.clips.dataset")  # is not timed
    if contender.startswith("in memory"):
        call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(film: Path, frames: int, apart: int, turns: int, checkout: Path | None) -> dict:
    """Medians of the seconds of every contender, and their ratios."""
    count = one_pass(str(film))
    start = max(min(count // 2, count - frames * apart), 0)
    indices = sorted({min(start + apart * i, count - 1) for i in range(frames)})
    contenders = [
        "plain seek",
        "one pass",
        *(f"{when}, {row}" for row in ROWS for when in ("first", "indexed", "in memory")),
    ]
    contenders += [f"older, {row}" for row in ROWS] if checkout else []
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as caches:
            for name in contenders:
                cache = Path(caches) / name.split(", ")[-1]  # what the first read of a row keeps serves the others
                root = checkout if name.startswith("older") else Path(__file__).parents[1]
                seconds[name].append(_in_a_process(name, film, [count, *indices], root, cache))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        **{"film": film.name, "megabytes": round(film.stat().st_size / 1e6), "frames": count, "seconds": medians},
        "spread": {name: [min(taken), max(taken)] for name, taken in seconds.items()},
    }


def _in_a_process(contender: str, film: Path, numbers: Sequence[int], root: Path, cache: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(root.resolve()), "VIDEOFIB_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, str(film), "--contender", contender, "--indices", json.dumps(numbers)]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def table(results: Sequence[dict]) -> str:
    lines = [
        "| film | contender | seconds | × plain seek | × one pass | × a pass and a seek |",
        "|---|---|" + "---:|" * 4,
    ]
    for result in results:
        seconds = result["seconds"]
        seek, whole = seconds["plain seek"], seconds["one pass"]
        title = f"{result['film']}, {result['megabytes']:,} MB, {result['frames']:,} frames"
        for name, taken in seconds.items():
            ratios = " | ".join(f"{taken / other:.2f}" for other in (seek, whole, seek + whole))
            lines.append(f"| {title} | {name} | {taken:.3f} | {ratios} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="*", help="read these instead of films that are made")
    parser.add_argument("--minutes", type=float, default=120, help="of the films that are made; an hour takes 1.1 GB")
    parser.add_argument("--containers", nargs="+", default=["mp4", "mkv", "ts"])
    parser.add_argument("--folder", type=Path, help="where to make them; default: the system's temporary folder")
    parser.add_argument("--frames", type=int, default=8, help="that are read, from the middle of the film on")
    parser.add_argument("--apart", type=int, default=32, help="frames from one to the next")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--checkout", type=Path, help="another checkout of videofib, measured in the same run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--indices", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.contender:
        count, *indices = args.indices
        print(timed(args.contender, str(args.films[0]), indices, count))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for film in args.films or args.containers:
            path = film if args.films else make(Path(folder), args.minutes, film)
            results.append(measure(path, args.frames, args.apart, args.turns, args.checkout))
            if not args.films:
                path.unlink()
    print(table(results))
    if args.json:
        with replacing(args.json) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
