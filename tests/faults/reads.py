"""The drill of a long run over files that are partly broken.

    python -m tests.faults.reads --good DIR --hostile DIR --reads 10000 --workers 2 --limit 3

trains a tiny model on clips of all videos below two folders, and of one that takes longer to decode than the limit
allows, while workers are stopped and killed at random. It then prints how memory grew, how long a batch took at most,
whether any readable video was lost, and how often each unreadable one was named in the log.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from tests.engine.in_memory import TinyNet
from tests.faults.verdict import failed, report
from videofib.checkpoint.manager import NoCheckpoints
from videofib.data.clips.dataset import ClipDataset, ClipSpec
from videofib.data.clips.transforms import TrainTransform
from videofib.data.errors import DecodeError
from videofib.data.lists.record import VideoRecord
from videofib.data.loading.loader import VideoLoader
from videofib.data.samplers import EpochSampler, shuffled
from videofib.data.video.decode import probe
from videofib.engine.objective import Supervised
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import train
from videofib.prep.encode import write_video
from videofib.tracking.log import close_logging, setup_logging

BATCH = 8
SLOW = "slow.mp4"


class Watched:
    """A loader that records memory, time, and whether a readable video was replaced."""

    def __init__(self, loader, readable, reads, disturb_every):
        self.loader, self.readable, self.disturb_every = loader, readable, disturb_every
        self.weigh_every = reads // 20
        self.sampler, self.dataset, self.close = loader.sampler, loader.dataset, loader.close
        self.reads, self.longest, self.lost, self.memory, self.disturbed = 0, 0.0, [], [], Counter()
        self.rng = random.Random(0)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        keys = [index for _, index, _ in self.sampler]
        start = time.perf_counter()
        for batch in self.loader:
            self.longest = max(self.longest, time.perf_counter() - start)
            for index in batch["indices"].tolist():
                requested = keys.pop(0)
                if requested in self.readable and index != requested:
                    self.lost.append(self.dataset.records[requested].video_id)
            self.reads += len(batch["labels"])
            if self.reads // self.weigh_every != (self.reads - len(batch["labels"])) // self.weigh_every:
                self.memory.append((self.reads, self._resident()))
            if self.disturb_every and self.rng.random() < 1 / self.disturb_every:
                number = self.rng.choice([signal.SIGKILL, signal.SIGSEGV])
                os.kill(self.rng.choice(self._workers()), number)
                self.disturbed[number.name] += 1
            yield batch
            start = time.perf_counter()

    def _workers(self):
        return [worker.process.pid for worker in self.loader._workers._workers.values()]

    def _resident(self):
        """MB that this process and its workers hold: resident, without the batches that they share."""
        total = 0
        for pid in [os.getpid(), *self._workers()]:
            status = Path(f"/proc/{pid}/status")
            found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
            total += int(found[1]) if found else 0
        return total / 1024


def drill(videos: list[Path], out: Path, reads: int, workers: int, limit: float, disturb_every: int) -> dict:
    """Read so many clips; see the top of this file."""
    records = [VideoRecord(str(path), 0, str(path)) for path in [*videos, out / SLOW]]
    readable = {index for index, record in enumerate(records) if index < len(videos) and is_readable(record.path)}
    transform = TrainTransform(32, [32, 40], flip=True, mean=[0.45] * 3, std=[0.225] * 3)
    dataset = ClipDataset(records, ClipSpec(4, 8, 30), transform)
    loader = VideoLoader(
        dataset, EpochSampler(shuffled(len(records), 0), BATCH), BATCH, num_workers=workers, time_limit=limit
    )
    watched = Watched(loader, readable, reads, disturb_every)
    model = TinyNet()
    setup_logging(out)
    train(
        model,
        watched,
        torch.optim.SGD(model.parameters(), lr=0.01),
        Recipe(lr_at=lambda epoch: 0.01, objective=Supervised(torch.nn.CrossEntropyLoss())),
        Schedule(-(-reads // (len(loader) * BATCH)), log_period=10**9),
        checkpoints=NoCheckpoints(),
        validate=dict,
    )
    loader.close()
    close_logging()
    named = Counter(line.partition(": ")[0] for line in (out / "unreadable_train.txt").read_text().splitlines())
    start = next(memory for done, memory in watched.memory if done >= reads // 10)
    return {
        "reads": watched.reads,
        "videos": len(records),
        "unreadable": len(records) - len(readable),
        "good_videos_lost": sorted(set(watched.lost)),
        "unreadable_named_once": sum(named[records[i].video_id] == 1 for i in range(len(records)) if i not in readable),
        "readable_named": [records[i].video_id for i in readable if named[records[i].video_id]],
        "longest_batch_s": round(watched.longest, 2),
        "memory_mb": [round(memory) for _, memory in watched.memory],
        "growth_mb": round(max(memory for _, memory in watched.memory[-3:]) - start, 1),
        "most_ever_mb_of_this_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "workers_killed": dict(watched.disturbed),
    }


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    expected = {"good_videos_lost": [], "readable_named": [], "unreadable_named_once": found["unreadable"]}
    return failed(found, true=("reads",), equal=expected)


def is_readable(path: str) -> bool:
    try:
        return probe(path).num_frames > 0
    except DecodeError:
        return False


def write_slow_video(path: Path) -> None:
    """One keyframe and then 400 large frames of change: to reach the last, a decoder must decode all."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 1080, 1920, 3), dtype=np.uint8)
    write_video(path, (noise[i % 8] for i in range(400)), 25, gop=400, preset="ultrafast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", type=Path, required=True)
    parser.add_argument("--hostile", type=Path, required=True)
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--disturb-every", type=int, default=100, help="batches from kill to kill, on average; 0: none")
    args = parser.parse_args()
    hostile = sorted(path for path in args.hostile.rglob("*.*") if path.name != ".keep")
    good = sorted(path for path in args.good.rglob("*") if path.suffix in (".mp4", ".avi"))[: 2 * len(hostile)]
    with tempfile.TemporaryDirectory() as out:
        write_slow_video(Path(out) / SLOW)
        found = drill([*good, *hostile], Path(out), args.reads, args.workers, args.limit, args.disturb_every)
    report(found, wrong(found))


if __name__ == "__main__":
    main()
