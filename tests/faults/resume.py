"""The drill of a run that is killed in the middle of an epoch and resumes.

    python -m tests.faults.resume --data DIR --kills 20 --processes 2 --workers 2

trains a tiny model on the videos of DIR (a prepared data set) undisturbed, then again while one of its processes kills
itself (SIGKILL) at random steps, and compares what was trained on: sample by sample, and the weights bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import torch

from tests.engine.in_memory import TinyNet
from videofib.checkpoint.file import START, TrainingState
from videofib.checkpoint.manager import CheckpointManager
from videofib.config import load_config
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.step import Recipe
from videofib.engine.train import Schedule, train
from videofib.run.loaders import build_train_loader

EPOCHS = 2


class Recorded:
    """A loader that records its batches: (epoch, step) and the videos' indices, one JSON line a batch."""

    def __init__(self, loader, file, kill_at):
        self.loader, self.file, self.kill_at = loader, file, kill_at
        self.sampler, self.dataset, self.close = self, loader.dataset, loader.close

    def __len__(self):
        return len(self.loader)

    def set_epoch(self, epoch, step=0):
        self.epoch, self.step = epoch, step
        self.loader.sampler.set_epoch(epoch, step)

    def __iter__(self):
        for step, batch in enumerate(self.loader, start=self.step):
            if (self.epoch, step) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            with self.file.open("a") as lines:
                lines.write(json.dumps([self.epoch, step, batch["indices"].tolist()]) + "\n")
            yield batch


def run_process(data, out, workers, kill_rank, kill_at):
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
    checkpoints = CheckpointManager(out / "checkpoints", TrainingState(model, optimizer))
    resumed = checkpoints.resume()
    train(
        model,
        Recorded(loader, out / f"seen_{rank}.jsonl", kill_at if rank == kill_rank else None),
        optimizer,
        Recipe(lr_at=lambda epoch: 0.01, criterion=torch.nn.CrossEntropyLoss()),
        Schedule(EPOCHS, log_period=10**6, checkpoint_steps=3),
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
    launch(run_process, (data, out / "calm", workers, None, None), processes=processes)
    calm = seen(out / "calm", processes)
    moments = [(epoch, step) for epoch, step, _ in calm[0]]
    rng = random.Random(seed)
    done = []
    for kill_at in sorted(rng.sample(moments, kills)):
        arguments = (data, out / "killed", workers, rng.randrange(processes), kill_at)
        try:
            launch(run_process, arguments, processes=processes)
        except torch.multiprocessing.ProcessExitedException:
            done.append(kill_at)
    launch(run_process, (data, out / "killed", workers, None, None), processes=processes)
    killed = seen(out / "killed", processes)
    samples = [{(epoch, step): batch for epoch, step, batch in lines} for lines in killed]
    return {
        "batches": len(moments),
        "kills": done,
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
    out = Path(tempfile.mkdtemp())
    print(json.dumps(drill(args.data, out, args.processes, args.workers, args.kills, args.seed)))
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
