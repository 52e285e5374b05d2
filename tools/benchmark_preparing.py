"""The time of preparing videos, against the ffmpeg command line's transcode of the same files with the same settings.

    python tools/benchmark_preparing.py VIDEO ... --rounds 5 --checkout ../older

For each video and round, one after another: ffmpeg's transcode, ffmpeg decoding its output to nothing (a check), ours,
and ours of an older checkout, in a process that imports that one. Everything has one thread a codec. The table shows
the minimum and the median over all files and rounds of the ratio of seconds; starting ffmpeg counts, starting Python
does not, since a preparation starts it once for many videos.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

_X264 = "keyint=12:min-keyint=12:scenecut=0:open-gop=0:bframes=0:no-mbtree=1"
_SCALE = "scale='if(gt(iw,ih),-2,min(iw,256))':'if(gt(iw,ih),min(ih,256),-2)'"
# Reads a line `source<tab>target`, answers with seconds; the same code serves every checkout.
_WORKER = """
import sys, time
from videofib.prep.transcode import Encoding, transcode
for line in sys.stdin:
    source, target = line.rstrip("\\n").split("\\t")
    start = time.perf_counter()
    transcode(source, target, Encoding())
    print(time.perf_counter() - start, flush=True)
"""


class Worker:
    """A process that prepares videos with the videofib of one checkout."""

    def __init__(self, checkout: Path):
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        command = [sys.executable, "-c", _WORKER]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=checkout)

    def seconds(self, source: Path, target: Path) -> float:
        self._process.stdin.write(f"{source.resolve()}\t{target}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{source}: its preparation failed")
        return float(answer)

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare preparing videos with ffmpeg; prints JSON and a table.")
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3, help="of all videos (default %(default)s)")
    parser.add_argument("--checkout", type=Path, help="of an older version, to compare with")
    args = parser.parse_args(arguments)
    workers = {"ours": Worker(Path(__file__).parents[1])}
    if args.checkout:
        workers["older"] = Worker(args.checkout)
    with tempfile.TemporaryDirectory() as folder:
        for worker in workers.values():
            worker.seconds(args.videos[0], Path(folder, "first.mp4"))  # imports of the first video
        rows = [_measure(video, Path(folder), workers) for _ in range(args.rounds) for video in args.videos]
    for worker in workers.values():
        worker.end()
    ratios = {
        name: {
            "of transcode": [row[name] / row["transcode"] for row in rows],
            "of transcode and check": [row[name] / (row["transcode"] + row["check"]) for row in rows],
        }
        for name in workers
    }
    found = {name: {kind: [min(values), median(values)] for kind, values in of.items()} for name, of in ratios.items()}
    print(json.dumps({"videos": len(args.videos), "rounds": args.rounds, "ratios": found, "seconds": rows}))
    print(f"{'':8}{'':26}{'minimum':>9}{'median':>9}")
    for name, kinds in found.items():
        for kind, (least, middle) in kinds.items():
            print(f"{name:8}{kind:26}{least:9.2f}{middle:9.2f}")


def _measure(video: Path, folder: Path, workers: dict[str, Worker]) -> dict:
    theirs = folder / "theirs.mp4"
    encoder = ["-c:v", "libx264", "-threads", "1", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p"]
    row: dict = {"video": video.name}
    row["transcode"] = _ffmpeg(
        "-threads", "1", "-i", video, "-an", "-vf", _SCALE, *encoder, "-x264-params", _X264, theirs
    )
    row["check"] = _ffmpeg("-threads", "1", "-i", theirs, "-f", "null", "-")
    return row | {name: worker.seconds(video, folder / f"{name}.mp4") for name, worker in workers.items()}


def _ffmpeg(*words: str | Path) -> float:
    start = time.perf_counter()
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *words], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
