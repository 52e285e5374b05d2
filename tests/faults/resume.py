"""The drill of a run that is killed in the middle of an epoch and resumes.

    python -m tests.faults.resume --data DIR --kills 20 --processes 2 --workers 2

trains a tiny model on the videos of DIR (a prepared data set) undisturbed, then again while one of its processes is
killed at random steps, and compares what was trained on: sample by sample, and the weights bit by bit. It dies between
two batches, within a step (the gradients are there, the weights not yet changed), or while it writes a checkpoint, of
which half is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import tempfile
from pathlib import Path

import torch

from tests.engine.in_memory import TinyNet
from tests.faults.verdict import failed, report
from videofib.checkpoint.file import START, TrainingState
from videofib.checkpoint.manager import CheckpointManager
from videofib.config import load_config
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.objective import Supervised
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import train
from videofib.run.loaders import build_train_loader

EPOCHS, STEPS_TO_SAVE = 2, 3
MOMENTS = ("batch", "step", "save")
SOME_BYTES = 1000  # of a checkpoint, which has more


class Recorded:
    """A loader that records its batches: (epoch, step) and the videos' indices, one JSON line a batch."""

    def __init__(self, loader, file, kill_at, kill):
        self.loader, self.file, self.kill_at, self.kill = loader, file, kill_at, kill
        self.sampler, self.dataset, self.close = self, loader.dataset, loader.close

    def __len__(self):
        return len(self.loader)

    def set_epoch(self, epoch, step=0):
        self.epoch, self.step = epoch, step
        self.loader.sampler.set_epoch(epoch, step)

    def __iter__(self):
        for step, batch in enumerate(self.loader, start=self.step):
            if (self.epoch, step) == self.kill_at:
                self.kill()
            with self.file.open("a") as lines:
                lines.write(json.dumps([self.epoch, step, batch["indices"].tolist()]) + "\n")
            yield batch


class DiesSaving(CheckpointManager):
    """Once armed, the kernel ends the process when the file that it writes reaches a size."""

    armed = False

    def save(self, position):
        if self.armed:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (SOME_BYTES, resource.RLIM_INFINITY))
        return super().save(position)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def run_process(data, out, workers, kill_rank=None, kill_at=None, moment="batch"):
    """One process of a run, which resumes from the newest checkpoint, as tools/train_net.py does."""
    settings = {
        "DATA.PATH_TO_DATA_DIR": data,
        "DATA.NUM_FRAMES": 2,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA.TEST_CROP_SIZE": 32,
        "TRAIN.BATCH_SIZE": 4,
        "DATA_LOADER.NUM_WORKERS": workers,
    }
    torch.set_num_threads(1)
    rank = processes.rank()
    loader = build_train_loader(
        load_config(None, [str(part) for item in settings.items() for part in item]), rank, processes.world_size()
    )
    model = TinyNet(drop=0.5, classes=1 + max(record.label for record in loader.dataset.records))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    checkpoints = DiesSaving(out / "checkpoints", TrainingState(model, optimizer))
    kill = {
        "batch": die,
        "step": lambda: optimizer.register_step_pre_hook(lambda *_: die()),
        "save": lambda: setattr(checkpoints, "armed", True),
    }[moment]
    resumed = checkpoints.resume()
    train(
        model,
        Recorded(loader, out / f"seen_{rank}.jsonl", kill_at if rank == kill_rank else None, kill),
        optimizer,
        Recipe(lr_at=lambda epoch: 0.01, objective=Supervised(torch.nn.CrossEntropyLoss())),
        Schedule(EPOCHS, log_period=10**6, checkpoint_steps=STEPS_TO_SAVE),
        checkpoints=checkpoints,
        validate=dict,
        start=resumed.position if resumed else START,
    )
    loader.close()
    torch.save(model.state_dict(), out / f"weights_{rank}.pt")


def drill(data: Path, out: Path, processes: int, workers: int, kills: int, seed: int) -> dict:
    """Run undisturbed and disturbed; returns what was found."""
    (out / "calm").mkdir(parents=True)
    (out / "killed").mkdir()
    launch(run_process, (data, out / "calm", workers), processes=processes)
    calm = seen(out / "calm", processes)
    moments = [(epoch, step) for epoch, step, _ in calm[0]]
    rng = random.Random(seed)
    done, halves = [], 0
    for turn, position in enumerate(sorted(rng.sample(moments, kills))):
        moment = MOMENTS[turn % len(MOMENTS)]
        rank = 0 if moment == "save" else rng.randrange(processes)  # which alone writes checkpoints
        arguments = (data, out / "killed", workers, rank, position, moment)
        try:
            launch(run_process, arguments, processes=processes)
        except torch.multiprocessing.ProcessExitedException:
            done.append((*position, moment))
            halves += moment == "save" and bool(list((out / "killed" / "checkpoints").glob(".*.partial")))
    launch(run_process, (data, out / "killed", workers), processes=processes)
    killed = seen(out / "killed", processes)
    samples = [{(epoch, step): batch for epoch, step, batch in lines} for lines in killed]
    return {
        "batches": len(moments),
        "kills": done,
        "half_checkpoints_left": halves,
        "batches_read": len(killed[0]),
        "same_samples": [list(map(list, rank.values())) for rank in samples]
        == [[batch for _, _, batch in lines] for lines in calm],
        # a batch that was read again after a kill held the same videos as the first time
        "same_when_repeated": all(
            rank[epoch, step] == batch
            for rank, lines in zip(samples, killed, strict=True)
            for epoch, step, batch in lines
        ),
        "same_weights": all(
            torch.equal(one, other)
            for one, other in zip(*(weights(out / name) for name in ("calm", "killed")), strict=True)
        ),
    }


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    saving = sum(moment == "save" for _, _, moment in found["kills"])
    true = ("kills", "same_samples", "same_when_repeated", "same_weights")
    return failed(found, true=true, equal={"half_checkpoints_left": saving})


def seen(folder: Path, processes: int) -> list[list]:
    """For each process its lines (epoch, step, indices)."""
    files = [folder / f"seen_{rank}.jsonl" for rank in range(processes)]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def weights(folder: Path) -> list[torch.Tensor]:
    return list(torch.load(folder / "weights_0.pt").values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        found = drill(args.data.resolve(), Path(out), args.processes, args.workers, args.kills, args.seed)
    report(found, wrong(found))


if __name__ == "__main__":
    main()
