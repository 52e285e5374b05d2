"""Train the motion model with each mixer for a few epochs, and print a table: loss, clips a second, memory.

    python tools/compare_mixers.py --data runs/demo/data --out runs/mixers [--epochs 3] [--mixers NAME ...]

The recipe is that of the demo (configs/Motion), in joint and in divided form; the mixer and the learning rates' length
alone differ, and features are the mean of the patches where a mixer does not show these to a class token. Every model
is trained in a process of its own, one after the other, so that clips a second and memory can be compared where nothing
else runs. What is trained already, in --out, is not trained again. A mixer that cannot serve a form has the reason in
its row. After so few epochs the loss says that a model learns, not which mixer is better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from videofib.mixers import MIXERS
from videofib.mixers.table import NONE

_FORMS = {  # -> the config, and the keys that choose its mixers
    "joint": ("Motion/TimeSformerXXS_joint_fibottention_8x3_48", ["ATTENTION.JOINT"]),
    "divided": ("Motion/TimeSformerXXS_divided_fibottention_8x3_48", ["ATTENTION.SPACE", "ATTENTION.TIME"]),
}
_HALF = f"first 2: {NONE}, fibottention"  # of the 4 blocks; a model whose blocks are all without a mixer is refused


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the prepared motion data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), metavar="NAME", help="default: all")
    parser.add_argument("--forms", nargs="+", choices=_FORMS, default=list(_FORMS))
    args = parser.parse_args(argv)
    if unknown := [name for name in args.mixers if name not in MIXERS]:
        parser.error(f"unknown mixers: {', '.join(unknown)}; known: {', '.join(MIXERS)}")
    print("| form | mixer | loss of each epoch | training top-1 | clips/s | memory |")
    print("|---|---|---|---|---|---|")
    for form in args.forms:
        for name in args.mixers:
            print(f"| {form} | `{_HALF if name == NONE else name}` | {row(args, form, name)} |", flush=True)


def row(args: argparse.Namespace, form: str, name: str) -> str:
    """The cells behind form and mixer."""
    folder = args.out / f"{form}_{name}"
    words = [*("SOLVER.MAX_EPOCH", args.epochs, "TRAIN.EVAL_PERIOD", 0, "TRAIN.CHECKPOINT_PERIOD", args.epochs)]
    words += ["DATA.PATH_TO_DATA_DIR", args.data, "OUTPUT_DIR", folder, "REPORT.ENABLE", False]
    config, keys = _FORMS[form]
    for key in keys:
        words += [key, _HALF if name == NONE else name]
    if "class_token" not in MIXERS[name].serves:
        words += ["TIMESFORMER.POOLING", "mean"]
    epochs = list(trained(folder))
    if len(epochs) < args.epochs:
        command = [sys.executable, "-m", "videofib", "train", "--cfg", config, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr + done.stdout).strip().splitlines()
            errors = [line.partition("error: ")[2] for line in said if "error: " in line]
            return f"{(errors or said)[-1].replace('|', '/')} | | | "
        epochs = list(trained(folder))
    losses = ", ".join(f"{epoch['loss']:.3f}" for epoch in epochs)
    last = epochs[-1]
    return f"{losses} | {last['clip_top1_acc']:.1f} % | {last['clips_per_second']:.0f} | {last['memory_gib']:.2f} GiB"


def trained(folder: Path) -> Iterator[dict]:
    """The figures of the epochs of a run, as far as it came."""
    file = folder / "stats.jsonl"
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            if (figures := json.loads(line)).get("_type") == "train_epoch":
                yield figures


if __name__ == "__main__":
    main()
