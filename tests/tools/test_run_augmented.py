"""Every way of sampling and augmenting at once, from the command line to the figures of a test."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.experiment import results, stats, weights
from videofib.commands.run import main
from videofib.prep.encode import write_video
from videofib.tracking.log import close_logging

ROOT = Path(__file__).parents[2]
EVERYTHING = {
    "DATA.SAMPLING": "uniform",
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": "[0.08, 1.0]",
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": "[0.75, 1.3333]",
    "AUG.ENABLE": True,
    "AUG.NUM_SAMPLE": 2,
    "AUG.COLOR_JITTER": 0.4,
    "AUG.AA_TYPE": "augmix",
    "AUG.RE_PROB": 0.5,
    "MIXUP.ENABLE": True,
}
SMALL = {
    "TRAIN.BATCH_SIZE": 3,  # odd: its two views make it even
    "TRAIN.CHECKPOINT_PERIOD": 1,
    "TRAIN.EVAL_PERIOD": 2,
    "TEST.BATCH_SIZE": 8,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "TIMESFORMER.DEPTH": 1,
    "MODEL.NUM_CLASSES": 2,
    "SOLVER.MAX_EPOCH": 2,
    "SOLVER.WARMUP_EPOCHS": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos of many lengths, shapes and frame rates, and a text file named .mp4."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in {"train": 6, "val": 2, "test": 3}.items():
        for i in range(count):
            frames = rng.integers(0, 60, (3 + 7 * i, 48 + 16 * (i % 3), 80 - 16 * (i % 2), 3), dtype=np.uint8)
            frames[..., i % 2] += 150
            write_video(folder / f"{split}{i}.mp4", frames, [25, 30, 50][i % 3])
        (folder / f"{split}.csv").write_text("".join(f"{split}{i}.mp4 {i % 2}\n" for i in range(count)))
    (folder / "train5.mp4").write_text("this is not a video\n" * 100)
    return folder


def run(data, out, **changes):
    values = {**SMALL, **EVERYTHING, "DATA.PATH_TO_DATA_DIR": data, "OUTPUT_DIR": out, **changes}
    config = ROOT / "configs" / "Motion" / "TimeSformerXXS_joint_8x3_48.yaml"
    try:
        main(["--cfg", str(config), *(str(word) for pair in values.items() for word in pair)])
    finally:
        close_logging()
    return weights(out)


def test_everything_at_once_trains_resumes_and_tests(data, tmp_path):
    expected = run(data, tmp_path, **{"DATA_LOADER.NUM_WORKERS": 2})
    for epoch in stats(tmp_path, "train_epoch"):
        assert epoch["clips_per_second"] * epoch["seconds"] == pytest.approx(12, abs=0.5)  # two of each of six videos
        assert epoch["replaced_videos"] == 1
    found = results(tmp_path)
    assert (found["num_videos"], found["num_views"], found["skipped"]) == (3, 6, [])

    (tmp_path / "checkpoints" / "checkpoint_epoch_00002.pyth").unlink()
    resumed = run(data, tmp_path, **{"DATA_LOADER.NUM_WORKERS": 0, "TEST.ENABLE": False})
    assert "1 of 2 epochs are done" in (tmp_path / "log.txt").read_text()
    assert torch.equal(resumed, expected)
