"""The drill of a test that is killed and resumes.

    python -m tests.faults.evaluation --data DIR --kills 12

tests a tiny model on the videos of DIR (a prepared data set) undisturbed in one process, then again while a random one
of two or three processes is killed (SIGKILL) at random moments, and compares the results: scores bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import tempfile
import threading
import time
from pathlib import Path

import torch

from tests.faults.verdict import failed, report
from videofib.checkpoint.file import Position, TrainingState
from videofib.checkpoint.manager import CheckpointManager
from videofib.config import load_config
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.run.main import run
from videofib.run.parts import model_from_config
from videofib.tracking.log import close_logging

TINY = {
    "DATA.NUM_FRAMES": 2,
    "DATA.SAMPLING_RATE": 4,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA.TRAIN_JITTER_SCALES": [36, 44],
    "TIMESFORMER.EMBED_DIM": 24,
    "TIMESFORMER.DEPTH": 1,
    "TIMESFORMER.NUM_HEADS": 2,
    "TIMESFORMER.ATTENTION_TYPE": "joint_space_time",
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "TEST.SAVE_SECONDS": 0.05,
    "DATA_LOADER.NUM_WORKERS": 0,
}
VIEWS_A_PASS = 4  # of each process: which is what decides the last bits of scores


def parts(out: Path) -> list[Path]:
    return list((out / "test_parts").glob("*/part-*"))


def run_process(settings: dict, out: Path, victim: int, after: int, delay: float) -> None:
    """One process of a test as tools/test_net.py runs it; the victim dies ``delay`` seconds after so many parts."""
    torch.set_num_threads(1)
    words = {**settings, "OUTPUT_DIR": out, "TEST.BATCH_SIZE": VIEWS_A_PASS * processes.world_size()}
    cfg = load_config(None, [str(part) for item in words.items() for part in item])

    def die() -> None:
        while len(parts(out)) < after:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    if processes.rank() == victim:
        threading.Thread(target=die, daemon=True).start()
    run(cfg, ["test"])


def drill(data: Path, out: Path, classes: int, kills: int, seed: int, longest_delay: float) -> dict:
    """Test undisturbed and disturbed; returns what was found."""
    settings = {**TINY, "DATA.PATH_TO_DATA_DIR": data, "MODEL.NUM_CLASSES": classes}
    torch.manual_seed(0)
    model = model_from_config(load_config(None, [str(part) for item in settings.items() for part in item]))
    state = TrainingState(model, torch.optim.SGD(model.parameters()))
    checkpoint = CheckpointManager(out, state).save(Position(1))
    settings["TEST.CHECKPOINT_FILE_PATH"] = checkpoint
    calm, killed = out / "calm", out / "killed"
    threads = torch.get_num_threads()
    run_process(settings, calm, -1, 0, 0.0)  # in this process alone
    torch.set_num_threads(threads)
    close_logging()

    rng = random.Random(seed)
    died = []
    not_killed = 0  # tests that ended before the kill
    while len(died) < kills:
        processes = rng.choice((2, 3))
        victim, delay = rng.randrange(processes), rng.uniform(0, longest_delay)
        arguments = (settings, killed, victim, len(parts(killed)) + rng.randrange(3), delay)
        try:
            launch(run_process, arguments, processes=processes)
            not_killed += 1
        except torch.multiprocessing.ProcessExitedException:
            died.append([processes, victim, len(parts(killed))])
    launch(run_process, (settings, killed, -1, 0, 0.0), processes=3)
    log = (killed / "log.txt").read_text()
    return {
        "videos": json.loads((calm / "test_results.json").read_text())["num_videos"],
        "kills": died,  # processes, the one that was killed, parts on the disk then
        "not_killed": not_killed,
        "resumed_from": [int(number) for number in re.findall(r"an earlier start has finished (\d+)", log)],
        "same_scores": same(calm, killed, "test_scores.parquet"),
        "same_results": same(calm, killed, "test_results.json"),
        "parts_left": (killed / "test_parts").exists(),
    }


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    return failed(found, true=("kills", "resumed_from", "same_scores", "same_results"), equal={"parts_left": False})


def same(one: Path, other: Path, name: str) -> bool:
    return (one / name).read_bytes() == (other / name).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--delay", type=float, default=0.3, help="seconds, the longest between a part and the kill")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        found = drill(args.data.resolve(), Path(out), args.classes, args.kills, args.seed, args.delay)
    report(found, wrong(found))


if __name__ == "__main__":
    main()
