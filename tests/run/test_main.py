"""From command line and config to the parts of a run."""

import runpy

import pytest
import torch
from torch import nn

from videofib.config import load_config
from videofib.engine.objective import Supervised
from videofib.run.command_line import config_from_command_line
from videofib.run.training import criterion_from_config, recipe_from_config


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text("SOLVER:\n  MAX_EPOCH: 3\n")
    return str(file)


@pytest.mark.parametrize("words", [[], ["--opts"]])
def test_pairs_are_read_with_and_without_opts(config_file, words):
    cfg = config_from_command_line(["--cfg", config_file, *words, "RNG_SEED", "5", "SOLVER.STEPS", "[0,1,2]"])
    assert (cfg.RNG_SEED, cfg.SOLVER.STEPS, cfg.SOLVER.MAX_EPOCH) == (5, [0, 1, 2], 3)


def test_pyslowfasts_options_for_several_machines_work(config_file):
    machines = ["--shard_id", "1", "--num_shards", "2", "--init_method", "tcp://host:1234"]
    cfg = config_from_command_line(["--cfg", config_file, *machines, "NUM_GPUS", "4"])
    assert (cfg.SHARD_ID, cfg.NUM_SHARDS, cfg.INIT_METHOD, cfg.NUM_GPUS) == (1, 2, "tcp://host:1234", 4)


def test_key_value_and_assignments_may_be_mixed(config_file):
    cfg = config_from_command_line(["--cfg", config_file, "RNG_SEED=5", "NUM_GPUS", "2", "SOLVER.STEPS=[0,1,2]"])
    assert (cfg.RNG_SEED, cfg.NUM_GPUS, cfg.SOLVER.STEPS) == (5, 2, [0, 1, 2])


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_module_names_the_command():
    with pytest.raises(SystemExit, match="error: this module is not a command; run: python -m videofib run --cfg FILE"):
        runpy.run_module("videofib.run.main", run_name="__main__")


def test_torchrun_decides_the_number_of_processes(config_file, monkeypatch):
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "host", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    cfg = config_from_command_line(["--cfg", config_file, "NUM_GPUS", "1"])
    assert (cfg.NUM_GPUS, cfg.NUM_SHARDS) == (4, 2)


def recipe(*overrides):
    cfg = load_config(None, overrides)
    return recipe_from_config(cfg, Supervised(criterion_from_config(cfg)))


def test_the_default_recipe_is_plain():
    plain = recipe()
    assert (plain.accumulation, plain.clip_grad_norm, plain.mix, plain.scaler) == (1, 0.0, None, None)
    assert plain.objective.criterion.label_smoothing == 0.0
    assert [plain.lr_at(epoch) for epoch in (0, 11, 14)] == pytest.approx([0.005, 0.0005, 0.00005])


def test_a_larger_global_batch_accumulates():
    assert recipe("TRAIN.BATCH_SIZE", "8", "GLOBAL_BATCH_SIZE", "32").accumulation == 4


def test_the_schedule_takes_every_setting():
    lr_at = recipe(
        *[
            "SOLVER.BASE_LR",
            "1.0",
            "SOLVER.LR_POLICY",
            "cosine",
            "SOLVER.MAX_EPOCH",
            "10",
            "SOLVER.COSINE_END_LR",
            "0.2",
        ],
        *["SOLVER.WARMUP_EPOCHS", "5", "SOLVER.WARMUP_START_LR", "0.1"],
    ).lr_at
    assert [lr_at(epoch) for epoch in (0, 2.5, 5, 10)] == pytest.approx([0.1, 0.35, 0.6, 0.2])


def test_labels_are_smoothed_once_with_mixing_and_without():
    smooth = ["MODEL.NUM_CLASSES", "4", "MIXUP.LABEL_SMOOTH_VALUE", "0.2"]
    logits, labels = torch.randn(2, 4), torch.tensor([0, 3])
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(recipe(*smooth).objective.criterion(logits, labels), expected)

    mixing = recipe(*smooth, "MIXUP.ENABLE", "True", "MIXUP.PROB", "0.0")  # smooths only
    _, soft_labels = mixing.mix(torch.zeros(2, 3, 4, 4), labels)
    torch.testing.assert_close(mixing.objective.criterion(logits, soft_labels), expected)
    assert (mixing.mix.mixup_alpha, mixing.mix.cutmix_alpha, mixing.mix.switch_prob) == (0.8, 1.0, 0.5)
