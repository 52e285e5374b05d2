"""The long cycle: the clips of each epoch, workers that follow it, and resuming within a stage."""

import pytest
import torch

from tests.data.lists.test_shards import files  # noqa: F401, a fixture
from videofib.config import ConfigError, load_config
from videofib.data.loading.multigrid import MultigridStage, long_cycle, stage_at
from videofib.engine.objective import Objective
from videofib.run.loaders import build_train_loader
from videofib.run.training import recipe_from_config

FACTORS = load_config().MULTIGRID.LONG_CYCLE_FACTORS


def test_stages_by_hand():
    assert long_cycle(FACTORS, 60, 8, 224, patch_size=16) == [
        MultigridStage(0, 2, 160, 8),  # 224 · 0.707 = 158.4, 9.9 patches
        MultigridStage(15, 4, 160, 4),
        MultigridStage(30, 4, 224, 2),
        MultigridStage(45, 8, 224, 1),
    ]
    assert [stage.num_frames for stage in long_cycle(FACTORS, 5, 4, 32, tubelet_size=2)] == [2, 2, 2, 4]
    uneven = long_cycle(FACTORS, 5, 4, 32)
    assert [stage_at(uneven, epoch) for epoch in (0, 1, 1.99, 2, 3, 4, 4.5)] == [0, 1, 1, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("factors", "epochs", "message"),
    [
        (FACTORS, 3, "4 stages need as many epochs, and there are 3"),
        ([[0.5, 1.5]], 3, "above 0 and at most 1"),
        ([[0.5]], 3, "pairs"),
        ([], 3, "pairs"),
    ],
)
def test_impossible_factors_are_refused(factors, epochs, message):
    with pytest.raises(ValueError, match=message):
        long_cycle(factors, epochs, 8, 224)


def config(folder, **overrides):
    settings = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [36, 40],
        "DATA.TEST_CROP_SIZE": 32,
        "TIMESFORMER.PATCH_SIZE": 8,
        "TRAIN.BATCH_SIZE": 2,
        "SOLVER.MAX_EPOCH": 4,
        "MULTIGRID.LONG_CYCLE": True,
        "MULTIGRID.LONG_CYCLE_FACTORS": [[0.5, 0.75], [1.0, 1.0]],
        **overrides,
    }
    return load_config(None, [str(part) for item in settings.items() for part in item])


def read(loader, epoch, step=0):
    loader.sampler.set_epoch(epoch, step)
    return [(batch["views"].clone(), batch["indices"].tolist()) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_and_batches_follow_the_epoch_and_any_step_can_be_resumed(files, workers):  # noqa: F811
    loader = build_train_loader(config(files, **{"DATA_LOADER.NUM_WORKERS": workers}))
    epochs = [read(loader, epoch) for epoch in range(4)]
    small, full = (8, 1, 3, 2, 24, 24), (2, 1, 3, 4, 32, 32)  # 1 / (0.5 · 0.75²) = 3.6, so four times the batch
    assert [[tuple(views.shape) for views, _ in epoch] for epoch in epochs] == [[small]] * 2 + [[full] * 6] * 2
    again = build_train_loader(config(files, **{"DATA_LOADER.NUM_WORKERS": workers}))
    for epoch, step in [(2, 4), (1, 0), (3, 5)]:
        for (views, indices), (expected, where) in zip(read(again, epoch, step), epochs[epoch][step:], strict=True):
            assert indices == where
            assert torch.equal(views, expected)
    loader.close()
    again.close()


def test_fewer_frames_cover_the_same_time(files):  # noqa: F811
    loader = build_train_loader(config(files))
    spans = []
    for epoch in (0, 2):
        loader.set_epoch(epoch)
        clip, *_ = loader.dataset.read.spec.view_clips(1000, 25.0, 1)  # the middle one
        spans.append((clip[0], clip[-1]))
    assert spans[0] == spans[1]


def test_learning_rates_follow_the_batches(files):  # noqa: F811
    cfg = config(files, **{"SOLVER.BASE_LR": 0.1, "SOLVER.LR_POLICY": "linear"})
    lr_at = recipe_from_config(cfg, Objective()).lr_at
    assert [lr_at(epoch) for epoch in (0, 1, 1.999, 2, 3)] == pytest.approx([0.4, 0.3, 0.2001, 0.05, 0.025])


def test_incompatible_settings_are_refused(files):  # noqa: F811
    with pytest.raises(ConfigError, match="needs a model that takes clips of any size, and X3D_S does not"):
        config(files, **{"MODEL.MODEL_NAME": "X3D_S"})
    with pytest.raises(ConfigError, match="the teacher of DISTILL takes clips of one size"):
        config(files, **{"DISTILL.CONFIG": "a", "DISTILL.CHECKPOINT": "b"})
    with pytest.raises(ConfigError, match=r"MULTIGRID.LONG_CYCLE_FACTORS: .*there are 1"):
        build_train_loader(config(files, **{"SOLVER.MAX_EPOCH": 1}))
