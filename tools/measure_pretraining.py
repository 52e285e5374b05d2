"""Measure what pre-training without labels is worth on five classes of UCF101, against training from scratch.

    python tools/measure_pretraining.py --data data/ucf101_5_small --out runs/pretraining --seeds 0 1 2

For each seed, with the configs UCF101/TimeSformerXXS_joint_fibottention_8x4_64*:

    scratch           trained from random weights
    scratch, longer   for as many epochs as take the processor time of the dearest pre-training and fine-tuning together
    mae, selfpatch    pre-trained on the training videos without their labels, then fine-tuned as scratch is trained
    ..., probe        the same weights frozen, a linear classifier trained on them; also on random weights

All are tested on the test videos of split 1. The data set is prepared as the config's header says. Every run is a
command of its own and resumes where it was interrupted; what is finished is not repeated. Processor time is that of a
run's processes, so that other work on the machine changes it little; it is lost where a run was interrupted, and what
was counted before then is not in it. ``OUT/results.json`` has all figures, and a table is printed.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from videofib.files import replacing
from videofib.parser import Parser

CONFIG = "UCF101/TimeSformerXXS_joint_fibottention_8x4_64"
METHODS = ("mae", "selfpatch")
PROBE = ["TRAIN.LINEAR_PROBE", "True", "SOLVER.BASE_LR", "0.01", "SOLVER.WEIGHT_DECAY", "0"]


class Runs:
    """Runs in a folder, each with its processor time and, once it is tested, its accuracy."""

    def __init__(self, data: str, folder: Path, workers: int):
        self.folder, self.file = folder, folder / "results.json"
        self.common = ["DATA.PATH_TO_DATA_DIR", data, "DATA_LOADER.NUM_WORKERS", str(workers)]
        self.common += ["CHECKPOINT.KEEP", "1", "REPORT.ENABLE", "False"]
        folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def run(self, name: str, command: str, config: str, epochs: int, seed: int, words: Sequence[str] = ()) -> dict:
        """What is known of a finished run, which is made if it is not finished yet."""
        if (found := self.results.get(name)) is None:
            out = self.folder / name
            settings = ["OUTPUT_DIR", str(out), "RNG_SEED", str(seed), "SOLVER.MAX_EPOCH", str(epochs), *self.common]
            warmup = ["SOLVER.WARMUP_EPOCHS", str(max(1, epochs // 10))]
            print(f"{name}: {epochs} epochs", flush=True)
            before = _processor_seconds()
            line = [sys.executable, "-m", "videofib", command, "--cfg", config, *settings, *warmup, *words]
            with (self.folder / f"{name}.log").open("a") as log:
                subprocess.run(line, check=True, stdout=log, stderr=log)
            found = {"epochs": epochs, "processor_seconds": _processor_seconds() - before}
            if (tested := out / "test_results.json").is_file():
                found |= {key: json.loads(tested.read_text())[key] for key in ("top1_acc", "num_videos")}
            self.results[name] = found
            with replacing(self.file) as partial:
                partial.write_text(json.dumps(self.results, indent=1))
        return found

    def weights(self, name: str) -> list[str]:
        """The words that start a run from the last checkpoint of another."""
        last = max((self.folder / name / "checkpoints").glob("checkpoint_epoch_*.pyth"))
        return ["TRAIN.CHECKPOINT_FILE_PATH", str(last)]


def measure(runs: Runs, seed: int, epochs: Mapping[str, int]) -> None:
    """All runs of a seed, the quick ones first."""
    tune, probe = epochs["tune"], epochs["probe"]
    runs.run(f"scratch_{seed}", "run", CONFIG, tune, seed)
    runs.run(f"random_probe_{seed}", "run", CONFIG, probe, seed, PROBE)
    total = 0.0
    for method in METHODS:
        name = f"{method}_{seed}"
        spent = runs.run(name, "pretrain", f"{CONFIG}_{method}", epochs[method], seed)["processor_seconds"]
        weights = runs.weights(name)
        spent += runs.run(f"{name}_tuned", "run", CONFIG, tune, seed, weights)["processor_seconds"]
        runs.run(f"{name}_probe", "run", CONFIG, probe, seed, [*weights, *PROBE])
        total = max(total, spent)
    longer = round(tune * total / runs.results[f"scratch_{seed}"]["processor_seconds"])
    runs.run(f"scratch_longer_{seed}", "run", CONFIG, max(tune, longer), seed)


def table(results: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """A line for each kind of run: epochs, processor time and top-1 accuracy of each seed, and their mean."""
    names = ["scratch_{}", "scratch_longer_{}", "random_probe_{}"]
    names += [f"{method}_{{}}{end}" for method in METHODS for end in ("", "_tuned", "_probe")]
    lines = ["| run | epochs | processor time | top-1 of each seed | mean |", "|---|---|---|---|---|"]
    for name in names:
        found = [results[key] for seed in seeds if (key := name.format(seed)) in results]
        if not found:
            continue
        accuracies = [one["top1_acc"] for one in found if "top1_acc" in one]
        epochs = ", ".join(str(count) for count in dict.fromkeys(one["epochs"] for one in found))
        seconds = mean(one["processor_seconds"] for one in found)
        shown = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        lines.append(
            f"| {name.replace('_{}', '').replace('_', ' ')} | {epochs} | {seconds:.0f} s | {shown or '–'} | "
            f"{f'{mean(accuracies):.1f}' if accuracies else '–'} |"
        )
    return "\n".join(lines)


def _processor_seconds() -> float:
    """Of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("measure_pretraining", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="prepared data set, see the config's header")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tune", type=int, default=20, help="epochs of fine-tuning, and from scratch")
    parser.add_argument("--probe", type=int, default=10, help="epochs of linear probes")
    parser.add_argument("--mae", type=int, default=80, help="epochs of pre-training")
    parser.add_argument("--selfpatch", type=int, default=30, help="epochs of pre-training")
    parser.add_argument("--workers", type=int, default=1, help="data workers of a run")
    options = parser.parse_args(argv)
    runs = Runs(options.data, options.out, options.workers)
    epochs = {name: getattr(options, name) for name in ("tune", "probe", *METHODS)}
    for seed in options.seeds:
        measure(runs, seed, epochs)
        print(table(runs.results, options.seeds), flush=True)


if __name__ == "__main__":
    main()
