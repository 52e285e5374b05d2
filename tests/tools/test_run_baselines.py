"""Each baseline by its own config, with small clips: two steps of training, validation and a multi-view test."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.experiment import results, stats
from videofib.checkpoint.file import ModelDescription, Position, TrainingState
from videofib.checkpoint.manager import CheckpointManager
from videofib.commands.run import main
from videofib.config import load_config
from videofib.metrics.scores import read_scores
from videofib.run.models import build_model
from videofib.tracking.log import close_logging

ROOT = Path(__file__).parents[2]
SPLITS = {"train": 4, "val": 2, "test": 3}
FILES = sorted(file for file in (ROOT / "configs").rglob("*.yaml") if not file.name.startswith("TimeSformer"))
SMALL = {
    "LOG_PERIOD": 1,
    "NUM_GPUS": 1,
    "TRAIN.BATCH_SIZE": 2,
    "TEST.BATCH_SIZE": 6,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "DATA.NUM_FRAMES": 8,
    "DATA.TRAIN_JITTER_SCALES": "[36, 44]",
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 40,
    "DATA_LOADER.NUM_WORKERS": 0,
    "MODEL.NUM_CLASSES": 3,
    "SOLVER.MAX_EPOCH": 1,
    "SOLVER.WARMUP_EPOCHS": 0,
}


@pytest.fixture
def data(experiment, tmp_path):
    """Lists of few clips."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in SPLITS.items():
        rows = (experiment / f"{split}.csv").read_text().splitlines(keepends=True)
        (folder / f"{split}.csv").write_text("".join(rows[:count]))
    return {"DATA.PATH_TO_DATA_DIR": folder, "DATA.PATH_PREFIX": experiment}


def run(file, data, out, **changes):
    values = {**SMALL, **data, "OUTPUT_DIR": out, **changes}
    try:
        main(["--cfg", str(file), *(str(word) for pair in values.items() for word in pair)])
    finally:
        close_logging()


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_baseline_trains_and_tests(file, data, tmp_path):
    changes = {"DATA.TEST_CROP_SIZE": 32} if file.name.startswith("MViT") else {}
    if file.name.startswith("SlowFast"):  # whose two pathways go through two processes, too
        changes |= {"NUM_GPUS": 2, "TRAIN.EMA_DECAY": 0.5}
    run(file, data, tmp_path, **changes)
    lines = stats(tmp_path)
    assert [line["_type"] for line in lines] == ["train_iter"] * 2 + ["train_epoch", "val_epoch", "test_final"]
    assert all(line["grad_norm"] > 0 for line in lines[:2])
    found = results(tmp_path)
    assert (found["num_videos"], found["num_views"], found["skipped"]) == (3, 2, [])
    np.testing.assert_allclose(read_scores(tmp_path / "test_scores.parquet").scores.sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_change_that_weights_do_not_show_is_named(data, tmp_path, capsys):
    file = ROOT / "configs" / "Kinetics" / "SlowFast_R50_8x8_224.yaml"
    cfg = load_config(file, ["MODEL.NUM_CLASSES", "3"])
    model = build_model(cfg)
    state = TrainingState(model, torch.optim.SGD(model.parameters()))
    checkpoint = CheckpointManager(tmp_path, state, ModelDescription(cfg.dump())).save(Position(1))
    changes = {"TRAIN.ENABLE": False, "TEST.CHECKPOINT_FILE_PATH": checkpoint, "SLOWFAST.ALPHA": 2}
    run(file, data, tmp_path, **changes)
    assert "SLOWFAST.ALPHA 4 -> 2" in "".join(capsys.readouterr())


def test_settings_that_do_not_fit_are_one_line(data, tmp_path, capsys):
    file = ROOT / "configs" / "Kinetics" / "SlowFast_R50_8x8_224.yaml"
    with pytest.raises(SystemExit) as caught:
        run(file, data, tmp_path, **{"DATA.NUM_FRAMES": 10})
    assert caught.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert said.endswith("the config describes no model: SlowFast needs T to be a multiple of alpha; got T=10, alpha=4")
