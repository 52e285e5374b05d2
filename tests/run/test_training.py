"""From the config to the parts of a training."""

import pytest

from videofib.config import load_config
from videofib.run.training import recipe_from_config


@pytest.mark.parametrize(
    ("batches", "scale"),
    [
        ("TRAIN.BATCH_SIZE 16", 1),
        ("TRAIN.BATCH_SIZE 16 SOLVER.BASE_LR_BATCH_SIZE 64", 0.25),
        ("TRAIN.BATCH_SIZE 16 GLOBAL_BATCH_SIZE 128 SOLVER.BASE_LR_BATCH_SIZE 64", 2),
        ("TRAIN.BATCH_SIZE 16 NUM_GPUS 4 SOLVER.BASE_LR_BATCH_SIZE 8", 2),  # batch sizes are totals already
    ],
)
def test_learning_rates_scale_with_the_batch(batches, scale, caplog):
    caplog.set_level("INFO", logger="videofib")
    solver = "SOLVER.BASE_LR 0.8 SOLVER.LR_POLICY cosine SOLVER.WARMUP_EPOCHS 2 SOLVER.WARMUP_START_LR 0.1"
    overrides = [*batches.split(), *solver.split(), "SOLVER.COSINE_END_LR", "0.01", "SOLVER.MAX_EPOCH", "10"]
    lr_at = recipe_from_config(load_config(None, overrides)).lr_at
    assert [lr_at(0), lr_at(10)] == pytest.approx([scale * 0.1, scale * 0.01])
    middle = 0.01 + (0.8 - 0.01) / 2
    assert lr_at(5) == pytest.approx(scale * middle)
    assert ("SOLVER.BASE_LR comes to" in caplog.text) == ("BASE_LR_BATCH_SIZE" in batches)
