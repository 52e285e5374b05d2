"""The drill of torchrun's restarts: workers are killed (SIGKILL) while they train, and torchrun restarts the group.

    python -m tests.faults.elastic --cfg FILE.yaml --kills 3 TRAIN.STRATEGY fsdp ...

trains undisturbed, then again while a process of the group is killed at random moments, and compares the weights bit by
bit. The config's data set should be small.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.faults.verdict import failed, report
from videofib.checkpoint.manager import latest_checkpoint

ROOT = Path(__file__).parents[2]


def command(config: Path, out: Path, processes: int, restarts: int, overrides: list[str]) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    elastic = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--max-restarts", str(restarts)]
    tool = [str(ROOT / "tools" / "train_net.py"), "--cfg", str(config), "OUTPUT_DIR", str(out)]
    return [*torchrun, *elastic, *tool, "LOG_PERIOD", "1", "TRAIN.CHECKPOINT_STEPS", "1", *overrides]


def workers(torchrun: int) -> list[int]:
    """The processes that torchrun has started."""
    text = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text()
    return [int(pid) for pid in text.split()]


def steps_logged(out: Path) -> int:
    """How many steps the run has logged; a step done twice counts twice."""
    file = out / "stats.jsonl"
    return file.read_text().count('"train_iter"') if file.exists() else 0


def kill_workers(process: subprocess.Popen, out: Path, kills: int, most_steps: int, rng: random.Random) -> list[int]:
    """Kill a worker, ``kills`` times, each some steps after the one before; returns the steps logged by then."""
    killed = []
    while len(killed) < kills:
        target = steps_logged(out) + rng.randint(1, most_steps)
        while steps_logged(out) < target:
            assert process.poll() is None, "the run ended before all kills were done; give it more epochs"
            time.sleep(0.02)
        os.kill(rng.choice(workers(process.pid)), signal.SIGKILL)
        killed.append(steps_logged(out))
    return killed


def drill(
    config: Path, out: Path, *, processes: int, kills: int, most_steps: int, overrides: list[str], seed=0
) -> dict:
    """Run undisturbed and disturbed; returns what was found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (out / "output.txt").open("w") as output:
        options = {"env": environment, "stdout": output, "stderr": output}
        subprocess.run(command(config, out / "calm", processes, 0, overrides), check=True, **options)
        process = subprocess.Popen(command(config, out / "killed", processes, kills, overrides), **options)
        try:
            killed = kill_workers(process, out / "killed", kills, most_steps, random.Random(seed))
            assert process.wait(timeout=600) == 0, (out / "output.txt").read_text()
        finally:
            process.terminate()  # which ends its workers, too
            process.wait()
    ends = [latest_checkpoint(out / name / "checkpoints") for name in ("calm", "killed")]
    (path, expected), (_, found) = ends
    return {
        "killed_after_steps": killed,
        "steps": [steps_logged(out / name) for name in ("calm", "killed")],
        "resumed": (out / "killed" / "log.txt").read_text().count("resuming from"),
        "last": path.name,
        "same_weights": expected["model_state"].keys() == found["model_state"].keys()
        and all(torch.equal(value, found["model_state"][key]) for key, value in expected["model_state"].items()),
    }


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    return failed(found, true=("same_weights",), equal={"resumed": len(found["killed_after_steps"])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--most-steps", type=int, default=10, help="a kill comes at most so many steps after the last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as out:
        found = drill(options.pop("cfg"), Path(out), **options)
    report(found, wrong(found))


if __name__ == "__main__":
    main()
