"""Files and the command line over the defaults, and one line for what cannot be used."""

import os
import re

import pytest

from videofib.config import ConfigError, default_config, differences, load_config
from videofib.config.named import configs_folder


def message_of(*overrides, path=None):
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes x.yaml in the working directory, so that messages name it just so."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "x.yaml").write_text(text)
        return "x.yaml"

    return write


def test_a_file_and_then_the_command_line_change_the_defaults(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  BASE_LR: 0.1\n  MAX_EPOCH: 3\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\nSOLVER:\n  MAX_EPOCH: 4\n  WEIGHT_DECAY: 5e-2\n")
    cfg = load_config(tmp_path / "mine.yaml", ["SOLVER.MAX_EPOCH", "5", "TRAIN.ENABLE", "False"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.WEIGHT_DECAY) == (0.1, 5, 0.05)
    assert cfg.TRAIN.ENABLE is False
    assert cfg.is_frozen()


def test_several_bases_count_in_order_and_start_at_their_own_folder(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yaml").write_text("RNG_SEED: 1\nLOG_PERIOD: 1\nNUM_GPUS: 2\n")
    (tmp_path / "sub" / "a.yaml").write_text("_BASE_: ../root.yaml\nLOG_PERIOD: 2\nRNG_SEED: 2\n")
    (tmp_path / "b.yaml").write_text("RNG_SEED: 3\n")
    (tmp_path / "mine.yaml").write_text("RNG_SEED: 4\n_BASE_: [sub/a.yaml, ~/b.yaml]\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = load_config(tmp_path / "mine.yaml")
    assert (cfg.RNG_SEED, cfg.LOG_PERIOD, cfg.NUM_GPUS) == (4, 2, 2)
    (tmp_path / "mine.yaml").write_text("_BASE_: [sub/a.yaml, ~/b.yaml]\n")
    assert load_config(tmp_path / "mine.yaml").RNG_SEED == 3


def test_a_dumped_config_loads_as_itself(tmp_path):
    awkward = {"OUTPUT_DIR": "2024", "DATA.PATH_LABEL_SEPARATOR": "','", "WANDB.PROJECT": "true", "RNG_SEED": "1e3"}
    awkward["WANDB.ENABLE"] = "True"
    cfg = load_config(None, [*(word for pair in awkward.items() for word in pair), "SOLVER.STEPS", "[0, 3, 4]"])
    assert (cfg.OUTPUT_DIR, cfg.DATA.PATH_LABEL_SEPARATOR, cfg.WANDB.PROJECT, cfg.RNG_SEED) == (
        "2024",
        ",",
        "true",
        1000,
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["SOLVER.BASE_LR", "1e-1"], "BASE_LR", 0.1),
        (["SOLVER.BASE_LR=1e-1"], "BASE_LR", 0.1),
        (["SOLVER.STEPS=[0,1,2]"], "STEPS", [0, 1, 2]),
        (["SOLVER.STEPS", "(0, 1, 2)"], "STEPS", [0, 1, 2]),
        (["SOLVER.NESTEROV=false", "SOLVER.MOMENTUM", "0"], "NESTEROV", False),
        (["SOLVER.MAX_EPOCH", 3], "MAX_EPOCH", 3),
    ],
)
def test_pairs_and_assignments_of_the_command_line(words, key, value):
    assert load_config(None, words).SOLVER[key] == value


def test_text_of_the_command_line_is_what_is_written():
    words = ["OUTPUT_DIR=a=b", "DATA.PATH_PREFIX", "it's", "MLFLOW.EXPERIMENT", "'None'", "WANDB.PROJECT", '"it\'s"']
    cfg = load_config(None, [*words, "WANDB.ENABLE", "True", "MLFLOW.ENABLE", "True"])
    assert (cfg.OUTPUT_DIR, cfg.DATA.PATH_PREFIX) == ("a=b", "it's")
    assert (cfg.MLFLOW.EXPERIMENT, cfg.WANDB.PROJECT) == ("None", "it's")


def test_a_file_may_have_empty_sections_numbers_as_names_and_words_of_yaml(written):
    text = (
        "TRAIN:\nSOLVER:\n  CLIP_GRAD_L2NORM: ~\n  NESTEROV: off\nOUTPUT_DIR: 007\nMLFLOW:\n  EXPERIMENT: 2024-01-01\n"
        "  ENABLE: yes\n"
    )
    cfg = load_config(written(text))
    assert (cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.SOLVER.NESTEROV) == (0, False)
    assert (cfg.OUTPUT_DIR, cfg.MLFLOW.EXPERIMENT) == ("007", "2024-01-01")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.BASE_LR"], "SOLVER.BASE_LR has no value on the command line; write pairs KEY VALUE"),
        (
            ["SOLVER.STEPS", "[0,", "11]"],
            "SOLVER.STEPS is [0, on the command line; put quotes around the list",
        ),
        (["TRAIN.BATCH_SIZE", "0"], "TRAIN.BATCH_SIZE is 0 on the command line; it must be an integer above 0"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is '' on the command line; it must be text that is not empty"),
        (["OUTPUT_DIR="], "OUTPUT_DIR is '' on the command line; it must be text that is not empty"),
        (
            ["SOLVER.BASE_LR", "1e400"],
            "SOLVER.BASE_LR is 1e400 on the command line; it must be a number above 0, and finite",
        ),
        (
            ["DATA.STD", "[0.2, 0, 0.2]"],
            "DATA.STD is '[0.2, 0, 0.2]' on the command line; it must be a list of 3 entries, each a number above 0",
        ),
        (
            ["RNG_SEED", "9" * 5000],
            f"RNG_SEED is {'9' * 57}... on the command line; it must be an integer, at least 0",
        ),
        (
            ["SOLVER.BASELR", "0.1"],
            "unknown key SOLVER.BASELR on the command line; the nearest known key is SOLVER.BASE_LR",
        ),
        (["base_lr", "1"], "unknown key base_lr on the command line; the nearest known key is SOLVER.BASE_LR"),
        (["XYZZY", "1"], "unknown key XYZZY on the command line; no known key is near"),
        (["a\nb", "1"], r"unknown key 'a\nb' on the command line; no known key is near"),
        (["SOLVER", "1"], "unknown key SOLVER on the command line; it is a section, whose keys stand below it"),
        (
            ["TEST.NUM_CROPS", "1", "XYZZY=1"],
            "2 unknown keys on the command line: TEST.NUM_CROPS (the nearest known key is TEST.NUM_SPATIAL_CROPS); "
            "XYZZY (no known key is near)",
        ),
    ],
)  # fmt: skip
def test_mistakes_of_the_command_line_are_one_line(words, message):
    assert message_of(*words) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "TEST:\n  ENABLE: True\n  NUM_CROPS: 3\n",
            "unknown key TEST.NUM_CROPS in x.yaml, line 3; the nearest known key is TEST.NUM_SPATIAL_CROPS",
        ),
        (
            "TEST:\n  NUM_CROPS: 0\nXYZZY:\n  A: 1\nSOLVER:\n  MAX_EPOCHS: 3\n",
            "3 unknown keys in x.yaml: TEST.NUM_CROPS (line 2, the nearest known key is TEST.NUM_SPATIAL_CROPS); "
            "XYZZY.A (line 4, no known key is near); SOLVER.MAX_EPOCHS (line 6, the nearest known key is "
            "SOLVER.MAX_EPOCH)",
        ),
        (
            "SOLVER:\n  BASE_LR: {a: 1}\n",
            "unknown key SOLVER.BASE_LR.a in x.yaml, line 2; the nearest known key is SOLVER.BASE_LR",
        ),
        ("TRAIN: 5\n", "unknown key TRAIN in x.yaml, line 1; it is a section, whose keys stand below it"),
        (
            "# note\nTRAIN:\n  BATCH_SIZE: ~\n",
            "TRAIN.BATCH_SIZE is None in x.yaml, line 3; it must be an integer above 0",
        ),
        ("TRAIN:\n  BATCH_SIZE: -1\n", "TRAIN.BATCH_SIZE is -1 in x.yaml, line 2; it must be an integer above 0"),
        (
            "DATA:\n  MEAN:\n    - 0.4\n    - a\n    - {b: 1}\n",
            "DATA.MEAN is [0.4, a, {b: 1}] in x.yaml, line 2; it must be a list of 3 entries, each a number",
        ),
        ("OUTPUT_DIR: \n", "OUTPUT_DIR is None in x.yaml, line 1; it must be text that is not empty"),
        ("", "x.yaml is not a config file: it is empty"),
        ("just words", "x.yaml is not a config file: expected sections and keys, got text"),
        ("- a\n- b\n", "x.yaml is not a config file: expected sections and keys, got a list"),
        (
            "SOLVER: [",
            "x.yaml is not a config file: line 1: while parsing a flow node, expected the node content, but found "
            "'<stream end>'",
        ),
        (
            "A: !!python/object/apply:os.getcwd []",
            "x.yaml is not a config file: line 1: the tag !!python/object/apply:os.getcwd is not allowed",
        ),
        (
            "SOLVER:\n  BASE_LR: 1\nSOLVER:\n  MAX_EPOCH: 2\n",
            "x.yaml is not a config file: SOLVER appears twice, on lines 1 and 3",
        ),
        (
            "_BASE_: gone.yaml",
            "x.yaml is not a config file: line 1: _BASE_: no config file at gone.yaml, and no config has such a name; "
            f"all are in {configs_folder()}",
        ),
        ("\n_BASE_: [[a]]", "x.yaml is not a config file: line 2: _BASE_ must be a path or a list of paths"),
        ("_BASE_:", "x.yaml is not a config file: line 1: _BASE_ must be a path or a list of paths"),
        ("_BASE_: x.yaml", "x.yaml is not a config file: line 1: _BASE_ leads in a circle, back to x.yaml"),
        ("A:\n  _BASE_: x.yaml", "unknown key A._BASE_ in x.yaml, line 2; no known key is near"),
    ],
)
def test_mistakes_of_a_file_are_one_line(written, text, message):
    assert message_of(path=written(text)) == message


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message_of(path="gone.yaml").startswith("no config file at gone.yaml, ")
    assert message_of(path=".").startswith("no config file at ., ")
    (tmp_path / "x.yaml").write_bytes(b"A: \xff")
    assert message_of(path="x.yaml").startswith("x.yaml is not a config file: 'utf-8' codec can't decode byte 0xff")
    if os.getuid():
        (tmp_path / "x.yaml").chmod(0)
        assert message_of(path="x.yaml").startswith("x.yaml is not a config file: [Errno 13] Permission denied")


def test_a_mistake_in_a_base_names_the_base(written, tmp_path):
    (tmp_path / "base.yaml").write_text("TRAIN:\n  BATCH_SIZE: 0\n")
    message = message_of(path=written("_BASE_: base.yaml\nTRAIN:\n  BATCH_SIZE: 8\n"))
    assert message == "TRAIN.BATCH_SIZE is 0 in base.yaml, line 2; it must be an integer above 0"


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    (tmp_path / "x.yaml").write_text("RNG_SEED: 3\n", encoding="utf-8-sig")
    assert load_config(tmp_path / "x.yaml").RNG_SEED == 3


def test_configs_share_nothing():
    default_config().DATA.MEAN.append(1)
    load_config().SOLVER.STEPS.append(1)
    assert load_config().DATA.MEAN == [0.45, 0.45, 0.45]
    assert load_config().SOLVER.STEPS == [0, 11, 14]


def test_differences_name_the_key_and_both_values():
    before = load_config(None, ["SOLVER.BASE_LR", "0.1", "ATTENTION.SPACE", "fibottention"]).dump()
    now = load_config(None, ["ATTENTION.SPACE", "fibottention"])
    assert differences(before, now) == ["SOLVER.BASE_LR 0.1 -> 0.005"]
    assert differences(before, now, ["ATTENTION"]) == []


def test_differences_bear_configs_of_other_versions():
    before = "DATA:\n  TARGET_FPS: 30\n  SAMPLING: sparse\nGONE: 1\nSOLVER:\n  STEPS: [0, 11, 14]\n"
    assert differences(before, load_config()) == ["DATA.SAMPLING sparse -> dense"]
    assert differences("", load_config()) == []


@pytest.mark.parametrize("text", ["MODEL: [1", "just words", "- 1", "A: 1\nA: 2"])
def test_a_checkpoint_whose_config_cannot_be_read_is_one_line(text):
    with pytest.raises(ConfigError, match=r"^the config kept in the checkpoint cannot be read: [^\n]+$") as error:
        differences(text, load_config())
    assert re.search(r"line|expected", str(error.value))
