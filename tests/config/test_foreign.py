"""Files of PySlowFast, TimeSformer and Fibottention's release load, and say what was read otherwise or ignored."""

from pathlib import Path

import pytest
import yaml

from videofib.config import ConfigError, load_config
from videofib.config.defaults import KEYS
from videofib.config.foreign import _IGNORED, _NETWORKS, _REFUSED, meaning

FOLDER = Path(__file__).parent / "foreign"
MODELS = {
    "fibottention_ntu": "TimeSformer",
    "mvit_b_16x4_conv": "MViT_B",
    "slowfast_8x8_r50": "SlowFast_R50",
    "timesformer_howto100m": "TimeSformer",
    "timesformer_kinetics": "TimeSformer",
    "timesformer_ssv2": "TimeSformer",
    "x3d_s": "X3D_S",
}


def load(path, *overrides):
    notes = []
    return load_config(path, overrides, notes=notes), notes


def written(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    return tmp_path / "x.yaml"


def refusal(tmp_path, text):
    with pytest.raises(ConfigError) as error:
        load(written(tmp_path, text))
    assert "\n" not in str(error.value)
    return str(error.value)


def flat(content, prefix=""):
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_there_is_a_model_for_every_file():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_their_files_load_and_every_foreign_key_is_named_in_a_line(name):
    file = FOLDER / f"{name}.yaml"
    cfg, notes = load(file)
    assert MODELS[name] == cfg.MODEL.MODEL_NAME
    assert cfg.NUM_GPUS == 8
    text = "\n".join(notes)
    assert len(notes) == len(text.splitlines()) <= 4
    for key in flat(yaml.safe_load(file.read_text())):
        assert key in KEYS or key in text, key


@pytest.mark.parametrize("name", MODELS)
def test_what_was_read_loads_again_without_a_line(name, tmp_path):
    cfg, _ = load(FOLDER / f"{name}.yaml")
    again, notes = load(written(tmp_path, cfg.dump()))
    assert (again, notes) == (cfg, [])


def test_values_are_translated():
    ssv2, notes = load(FOLDER / "timesformer_ssv2.yaml")
    assert (ssv2.DATA.SAMPLING, ssv2.DATA.SAMPLING_RATE, ssv2.MODEL.NUM_CLASSES) == ("uniform", 32, 174)
    assert any("random weights" in note for note in notes)
    assert any("DATA.REVERSE_INPUT_CHANNEL (clips are RGB" in note for note in notes)
    howto, notes = load(FOLDER / "timesformer_howto100m.yaml")
    assert (howto.TRAIN.CHECKPOINT_FILE_PATH, howto.DATA.DECODING_BACKEND) == ("/path/to/weights.pyth", "auto")
    assert not any("random weights" in note for note in notes)
    mvit, _ = load(FOLDER / "mvit_b_16x4_conv.yaml")
    assert (mvit.AUG.AA_TYPE, mvit.MODEL.LOSS_FUNC) == ("rand-m7-n4", "cross_entropy")
    slowfast, _ = load(FOLDER / "slowfast_8x8_r50.yaml")
    assert (slowfast.SLOWFAST.ALPHA, slowfast.SOLVER.WARMUP_EPOCHS) == (4, 34)


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
def test_kinds_of_attention_have_their_names(kind):
    cfg, _ = load(FOLDER / "timesformer_kinetics.yaml", "TIMESFORMER.ATTENTION_TYPE", kind)
    assert kind == cfg.TIMESFORMER.ATTENTION_TYPE


def test_what_a_file_says_itself_counts_and_what_it_leaves_empty_does_not(tmp_path):
    text = "TRAIN: {DATASET: ssv2, CHECKPOINT_FILE_PATH: ''}\nDATA: {SAMPLING: dense}\n"
    cfg, _ = load(written(tmp_path, text + "TIMESFORMER: {PRETRAINED_MODEL: a.pyth}\n"))
    assert (cfg.DATA.SAMPLING, cfg.TRAIN.CHECKPOINT_FILE_PATH) == ("dense", "a.pyth")
    text = "TRAIN: {CHECKPOINT_FILE_PATH: b.pyth}\nTIMESFORMER: {PRETRAINED_MODEL: a.pyth}\n"
    cfg, notes = load(written(tmp_path, text))
    assert cfg.TRAIN.CHECKPOINT_FILE_PATH == "b.pyth"
    assert "TIMESFORMER.PRETRAINED_MODEL (TRAIN.CHECKPOINT_FILE_PATH is the key)" in notes[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("MODEL: {ARCH: slowfast}\nRESNET: {DEPTH: 101}", "RESNET.DEPTH 101 in"),
        ("MODEL: {MODEL_NAME: SlowFast}\nSLOWFAST: {FUSION_KERNEL_SZ: 5}", "SlowFast_R50 has 7 here"),
        ("MODEL: {MODEL_NAME: X3D}\nX3D: {DEPTH_FACTOR: 5.0}", "X3D_S has 2.2 here"),
        ("MODEL: {MODEL_NAME: MViT}\nMVIT: {REL_POS_SPATIAL: True}", "MVIT.REL_POS_SPATIAL True in"),
        ("MODEL: {MODEL_NAME: MViT}\nMVIT: {DEPTH: 24}", "MViT_B has 16 here"),
        ("MODEL: {ARCH: slow, MODEL_NAME: ResNet}", "MODEL.ARCH slow in"),
        ("DETECTION: {ENABLE: True}", "DETECTION.ENABLE True in"),
        ("TRAIN: {DATASET: ava}", "TRAIN.DATASET ava in"),
        ("TRAIN: {CHECKPOINT_TYPE: caffe2}", "it must be pytorch"),
        ("MULTIGRID: {SHORT_CYCLE: True}", "it must be off"),
        ("BN: {NORM_TYPE: sub_batchnorm}", "it must be batchnorm or sync_batchnorm"),
        ("MODEL: {DROPCONNECT_RATE: 0.1}", "it must be off"),
        ("EMA: {ENABLED: True}", "it must be off"),
        ("DETECTION: {ENABLE: \"True\\e[2J\"}", "True\\x1b[2J"),
    ],
)  # fmt: skip
def test_what_would_change_the_results_is_refused(tmp_path, text, part):
    assert part in refusal(tmp_path, text)


def test_a_file_that_changes_another_one_is_about_the_other_ones_model(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {ARCH: slowfast}\n")
    assert "another network" in refusal(tmp_path, "_BASE_: base.yaml\nRESNET: {DEPTH: 101}\n")
    _, notes = load(written(tmp_path, "RESNET: {DEPTH: 101}\n"))
    assert "RESNET.DEPTH (it is about another model)" in notes[0]


def test_all_that_is_wrong_in_a_file_is_reported_at_once(tmp_path):
    message = refusal(
        tmp_path, "TRAIN: {DATASET: ava, BATCH_SIZE: 0}\nXYZZY: 1\nSOLVER: {BASELR: 1, LRS: no}\nDEMO: {ENABLE: 1}\n"
    )
    for part in ("TRAIN.DATASET ava", "DEMO.ENABLE 1", "2 unknown keys", "TRAIN.BATCH_SIZE is 0", "SOLVER.LRS is no"):
        assert part in message


def test_keys_without_effect_are_lines_in_their_files_and_errors_in_ours(tmp_path):
    ours = "SOLVER: {OPTIMIZING_METHOD: adamw, MOMENTUM: 0.8}\n"
    assert "SOLVER.MOMENTUM 0.8 has no effect" in refusal(tmp_path, ours)
    cfg, notes = load(written(tmp_path, f"{ours}LOG_MODEL_INFO: True\n"))
    assert cfg.SOLVER.MOMENTUM == 0.9
    assert notes[-1] == "no effect here: SOLVER.MOMENTUM 0.8, which is only read with SOLVER.OPTIMIZING_METHOD sgd"


def test_the_command_line_stays_strict():
    for words in (["TRAIN.DATASET", "kinetics"], ["MODEL.ARCH=vit"], ["MODEL.MODEL_NAME", "vit_base_patch16_224"]):
        with pytest.raises(ConfigError, match=r"on the command line"):
            load_config(None, words)
    with pytest.raises(ConfigError, match=r"it is PySlowFast's or TimeSformer's, and has no meaning here \(the lists"):
        load_config(None, ["TRAIN.DATASET", "kinetics"])
    with pytest.raises(ConfigError, match=r"SOLVER\.MOMENTUM 0\.8 has no effect"):
        load_config(FOLDER / "mvit_b_16x4_conv.yaml", ["SOLVER.MOMENTUM", "0.8"])


def test_no_key_of_ours_is_in_their_tables():
    for key in (*_IGNORED, *_NETWORKS, *_REFUSED):
        assert key not in KEYS
    assert not [key for key in KEYS if meaning(key)]
