"""A tiny experiment: encoded clips whose class is their colour, and a model that trains on them within a second."""

import json

import numpy as np
import torch
import yaml

from videofib.checkpoint.file import load_checkpoint
from videofib.prep.encode import write_video
from videofib.run.command_line import command_line
from videofib.run.main import main
from videofib.tracking.log import close_logging

CLASSES = ["red", "green", "blue"]
SPLITS = {"train": 12, "val": 3, "test": 5}
CONFIG = {
    "LOG_PERIOD": 2,
    "TRAIN": {"BATCH_SIZE": 4},
    "TEST": {"BATCH_SIZE": 12, "NUM_ENSEMBLE_VIEWS": 2, "NUM_SPATIAL_CROPS": 3},
    "DATA": {
        "NUM_FRAMES": 2,
        "SAMPLING_RATE": 4,
        "TRAIN_JITTER_SCALES": [36, 44],
        "TRAIN_CROP_SIZE": 32,
        "TEST_CROP_SIZE": 32,
    },
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "MODEL": {"NUM_CLASSES": 3},
    "TIMESFORMER": {
        "ATTENTION_TYPE": "joint_space_time",
        "PATCH_SIZE": 16,
        "EMBED_DIM": 24,
        "DEPTH": 1,
        "NUM_HEADS": 2,
        "DROP_PATH_RATE": 0.0,
    },
    "ATTENTION": {"JOINT": "fibottention"},
    "FIBOTTENTION": {"W_MIN": 2},
    "SOLVER": {
        "OPTIMIZING_METHOD": "sgd",  # AdamW would magnify the rounding by which numbers of processes differ
        "BASE_LR": 0.03,
        "LR_POLICY": "cosine",
        "MAX_EPOCH": 2,
        "WARMUP_EPOCHS": 0.5,
    },
}


def write(folder):
    """Fill a folder with the clips, a text file named .mp4, the lists, the class names and the config."""
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        lines = []
        for i in range(count):
            frames = rng.integers(0, 60, (16, 48, 64, 3), dtype=np.uint8)
            frames[..., i % 3] += 150
            write_video(folder / f"{split} {i}.mp4", frames, 30)
            lines.append(f"{split} {i}.mp4 {i % 3}\n")
        if split == "test":
            (folder / "broken.mp4").write_text("this is not a video\n" * 100)
            lines.append("broken.mp4 2\n")
        (folder / f"{split}.csv").write_text("".join(lines))
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    config = {**CONFIG, "DATA": {**CONFIG["DATA"], "PATH_TO_DATA_DIR": str(folder)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def run(experiment, out, *overrides, stages=None):
    """Train and test in this process, as ``videofib run`` does; returns ``out``."""
    try:
        words = ["--cfg", str(experiment / "config.yaml"), "OUTPUT_DIR", str(out), *map(str, overrides)]
        main(stages, *command_line(words))
    finally:
        close_logging()
    return out


def newest(run_folder, epoch=2):
    return run_folder / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth"


def weights(run_folder, epoch=2):
    """All weights of a checkpoint as one vector."""
    state = load_checkpoint(newest(run_folder, epoch))["model_state"]
    return torch.cat([value.flatten() for value in state.values()])


def results(run_folder):
    return json.loads((run_folder / "test_results.json").read_text())


def stats(run_folder, kind=None):
    """The lines of stats.jsonl, or those of one kind."""
    lines = [json.loads(line) for line in (run_folder / "stats.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["_type"])]
