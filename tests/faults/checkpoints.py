"""The drill of what is saved and skipped while training: full disks, damaged checkpoints, a video that breaks, NaN.

    python -m tests.faults.checkpoints --data DIR --times 20 --workers 2

trains a tiny model on the videos that DIR/train.csv lists, undisturbed, and then again and again while something real
is broken; every run that resumes must end with the weights of the undisturbed one, bit by bit.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tests.engine.in_memory import TinyNet
from tests.faults.verdict import failed, report
from videofib.checkpoint.file import START, CheckpointError, TrainingState, load_checkpoint
from videofib.checkpoint.manager import CheckpointManager, find_checkpoints, latest_checkpoint
from videofib.config import load_config
from videofib.data.lists.manifest import write_list
from videofib.data.lists.splits import load_split
from videofib.engine.objective import Supervised
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import TrainingError, train
from videofib.run.loaders import build_train_loader
from videofib.tracking.log import close_logging, setup_logging

EPOCHS, BATCH, STEPS_TO_SAVE = 2, 4, 3


class Disturbed:
    """A loader that calls a function with the batch, which may also change files, at some (epoch, step)."""

    def __init__(self, loader, at: Mapping[tuple[int, int], Callable[[dict], None]]):
        self.loader, self.at, self.dataset, self.sampler = loader, at, loader.dataset, self
        self.close = loader.close

    def __len__(self):
        return len(self.loader)

    def set_epoch(self, epoch, step=0):
        self.epoch, self.step = epoch, step
        self.loader.sampler.set_epoch(epoch, step)

    def __iter__(self):
        for step, batch in enumerate(self.loader, start=self.step):
            self.at.get((self.epoch, step), lambda batch: None)(batch)
            yield batch


def go(data: Path, out: Path, workers: int, at=None, manager=CheckpointManager) -> torch.Tensor:
    """Train from the newest checkpoint in ``out`` to the end, as tools/train_net.py does; returns the weights."""
    settings = {
        "DATA.PATH_TO_DATA_DIR": data,
        "DATA.NUM_FRAMES": 2,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA.TEST_CROP_SIZE": 32,
        "TRAIN.BATCH_SIZE": BATCH,
        "DATA_LOADER.NUM_WORKERS": workers,
    }
    loader = build_train_loader(load_config(None, [str(part) for item in settings.items() for part in item]))
    model = TinyNet(drop=0.5, classes=1 + max(record.label for record in loader.dataset.records))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    checkpoints = manager(out / "checkpoints", TrainingState(model, optimizer))
    setup_logging(out)
    try:
        resumed = checkpoints.resume()
        train(
            model,
            Disturbed(loader, at or {}),
            optimizer,
            Recipe(lr_at=lambda epoch: 0.01, objective=Supervised(torch.nn.CrossEntropyLoss()), max_skipped=3),
            Schedule(EPOCHS, log_period=10**6, checkpoint_steps=STEPS_TO_SAVE),
            checkpoints=checkpoints,
            validate=dict,
            start=resumed.position if resumed else START,
        )
    finally:
        loader.close()
        close_logging()
    return torch.cat([value.flatten() for value in model.state_dict().values()])


class Counted(CheckpointManager):
    """Counts the checkpoints of all runs that it saves."""

    saves = 0

    def save(self, position):
        Counted.saves += 1
        return super().save(position)


def full_disks(
    data: Path, out: Path, workers: int, times: int, calm: torch.Tensor, saves: int, rng: random.Random
) -> dict:
    """The disk is full in the middle of a random one of the first checkpoints (an undisturbed run has ``saves``).

    Later it has space again, and the run resumes.
    """
    reported, kept, complete, same = Counter(), [], [], []
    for turn in range(times):
        folder, countdown = out / f"full_{turn}", rng.randrange(1, min(saves, 3) + 1)

        class OnFullDisk(CheckpointManager):
            def save(self, position):
                nonlocal countdown
                countdown -= 1
                if countdown:
                    return super().save(position)
                before = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(1, 3000), before[1]))
                try:
                    return super().save(position)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)

        before = countdown - 1
        try:
            go(data, folder, workers, manager=OnFullDisk)
        except CheckpointError as error:
            reported[re.sub(r"\S*/checkpoint_\S+pyth", "FILE", str(error))] += 1
        left = list((folder / "checkpoints").iterdir())
        kept.append(len(left) == min(before, 2))  # no partial file either; within an epoch the newest two stay
        complete.append(all(load_checkpoint(path) for path in left))
        same.append(torch.equal(go(data, folder, workers), calm))
    unharmed = all(kept) and all(complete)
    return {"times": times, "reported": reported, "old_ones_are_unharmed": unharmed, "same_weights": all(same)}


def damages(data: Path, out: Path, workers: int, times: int, calm: torch.Tensor, rng: random.Random) -> dict:
    """The newest checkpoint of a finished run is damaged; the run resumes from the one before."""
    folder, ways, skipped, reported, same = out / "calm", Counter(), 0, 0, []
    for _ in range(times):
        newest = find_checkpoints(folder / "checkpoints")[-1]
        way = rng.choice([truncate, flip, zero])
        ways[way.__name__] += 1
        newest.write_bytes(way(newest.read_bytes(), rng))
        skipped += latest_checkpoint(folder / "checkpoints")[0] != newest
        (folder / "log.txt").unlink()
        same.append(torch.equal(go(data, folder, workers), calm))
        reported += f"{newest.name} is damaged" in (folder / "log.txt").read_text()
    return {"times": times, "ways": ways, "skipped": skipped, "reported": reported, "same_weights": all(same)}


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip(content: bytes, rng: random.Random) -> bytes:
    byte = rng.randrange(len(content))
    return content[:byte] + bytes([content[byte] ^ 1 << rng.randrange(8)]) + content[byte + 1 :]


def zero(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) - 512)
    return content[:start] + bytes(512) + content[start + 512 :]


def breaking_video(data: Path, out: Path, workers: int) -> dict:
    """A video is cut short during the first epoch; it is replaced, and named once."""
    records = load_split(data, "train")
    victim = out / f"victim{Path(records[0].path).suffix}"
    shutil.copy(records[0].path, victim)
    (out / "list").mkdir()
    rows = [(str(record.path), record.label) for record in records[1:]] + [(str(victim), records[0].label)]
    write_list(out / "list" / "train.csv", rows)
    size = victim.stat().st_size

    def cut(batch):
        with victim.open("r+b") as file:
            file.truncate(size // 20)

    weights = go(out / "list", out / "breaking", workers, at={(0, 1): cut})
    log = (out / "breaking" / "log.txt").read_text()
    return {"finished": True, "named": log.count(f"{victim} ("), "weights_finite": weights.isfinite().all().item()}


def bad_gradients(data: Path, out: Path, workers: int, calm: torch.Tensor) -> dict:
    """One batch of NaN is skipped and counted; three in a row end the run, and what was saved before is good."""

    def spoil(batch):
        batch["views"].fill_(math.nan)

    once = go(data, out / "once", workers, at={(0, 2): spoil})
    lines = [json.loads(line) for line in (out / "once" / "stats.jsonl").read_text().splitlines()]
    said = ""
    try:
        go(data, out / "often", workers, at={(1, step): spoil for step in (0, 1, 2)})
    except TrainingError as error:
        said = str(error)
    last, content = latest_checkpoint(out / "often" / "checkpoints")
    return {
        "skipped": [line["skipped_steps"] for line in lines if line["_type"] == "train_epoch"],
        "weights_finite": once.isfinite().all().item(),
        "stopped": said.partition(" (loss")[0],
        "kept": last.name,
        "kept_finite": all(value.isfinite().all() for value in content["model_state"].values()),
        "same_weights_from_there": torch.equal(go(data, out / "often", workers), calm),
    }


def drill(data: Path, out: Path, workers: int, times: int, seed: int = 0) -> dict:
    """All of it; returns what was found."""
    rng = random.Random(seed)
    Counted.saves = 0
    calm = go(data, out / "calm", workers, manager=Counted)
    return {
        "full_disks": full_disks(data, out, workers, times, calm, Counted.saves, rng),
        "damages": damages(data, out, workers, times, calm, rng),
        "breaking_video": breaking_video(data, out, workers),
        "bad_gradients": bad_gradients(data, out, workers, calm),
    }


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    times = found["full_disks"]["times"]
    return failed(
        found,
        true=(
            *("full_disks.old_ones_are_unharmed", "full_disks.same_weights", "damages.skipped", "damages.same_weights"),
            *("breaking_video.finished", "breaking_video.weights_finite", "bad_gradients.weights_finite"),
            *("bad_gradients.stopped", "bad_gradients.kept_finite", "bad_gradients.same_weights_from_there"),
        ),
        equal={
            "full_disks.reported": {"cannot write the checkpoint FILE: File too large": times},
            "damages.reported": found["damages"]["skipped"],
            "breaking_video.named": 1,
            "bad_gradients.skipped": [1, 0],
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        found = drill(args.data.resolve(), Path(out), args.workers, args.times, args.seed)
    report(found, wrong(found))


if __name__ == "__main__":
    main()
