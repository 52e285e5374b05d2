"""Configs by name, as ``--cfg``, ``_BASE_`` and ``DISTILL.CONFIG`` find them."""

import os

import pytest

from videofib.config import ConfigError, load_config
from videofib.config.named import configs_folder, find_config, named_configs

UCF101 = "UCF101/TimeSformer_joint_8x8_224"
MOTION = "Motion/TimeSformerXXS_joint_fibottention_8x3_48"


def refusal(written, **where):
    with pytest.raises(ConfigError) as caught:
        find_config(written, **where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_config_has_its_folder_and_file_as_its_name():
    known = named_configs()
    assert {file for file in configs_folder().rglob("*") if file.is_file()} == set(known.values())
    assert known[UCF101].parts[-3:] == ("configs", "UCF101", "TimeSformer_joint_8x8_224.yaml")
    assert list(known) == sorted(known)


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_a_config_is_found_by_its_name_in_any_folder(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(UCF101 + suffix).OUTPUT_DIR == "runs/UCF101/TimeSformer_joint_8x8_224"
    assert load_config("Motion/TimeSformerXXS_joint_8x3_48").DATA.NUM_FRAMES == 8  # of its base


@pytest.mark.parametrize("name", [UCF101, f"{UCF101}.yaml"])
def test_an_existing_file_comes_first_and_a_folder_of_that_name_does_not_count(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)  # as a run's OUTPUT_DIR may be called
    assert find_config(name) == named_configs()[UCF101]
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("RNG_SEED: 7\n")
    assert load_config(name).RNG_SEED == 7


def test_a_base_may_be_a_name_and_starts_at_the_folder_of_its_file(tmp_path, monkeypatch):
    mine = tmp_path / "sub" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text(f"_BASE_: {MOTION}\nRNG_SEED: 7\n")
    cfg = load_config(mine)
    assert (cfg.RNG_SEED, cfg.DATA.TEST_CROP_SIZE) == (7, 48)
    (mine.parent / "Motion").mkdir()
    (mine.parent / MOTION).write_text("DATA: {TEST_CROP_SIZE: 64}\n")
    assert load_config(mine).DATA.TEST_CROP_SIZE == 64


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("UCF101/TimeSformer_jont_8x8_224", UCF101),
        ("TimeSformer_joint_8x8_224", "HMDB51/TimeSformer_joint_8x8_224, UCF101/TimeSformer_joint_8x8_224"),
        (f"configs/{UCF101}.yaml", UCF101),
        ("ucf101/timesformer_JOINT_8x8_224", UCF101),
        ("UCF101", "UCF101/"),
        ("Kinetics/X3D", "Kinetics/X3D_"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest(written, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(written).startswith(f"no config file at {written}; the nearest names are {near}")


@pytest.mark.parametrize(
    "written", ["", ".", "/", "gone.yaml", "../UCF101", "~no_such_user/x", "runs/mine/config.yaml"]
)
def test_what_is_near_nothing_is_reported_with_where_to_look(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(written).endswith(f"and no config has such a name; all are in {configs_folder()}")


def test_a_name_too_long_for_a_file_is_one_line():
    assert "File name too long" in refusal("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "getuid") or not os.getuid(), reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert "Permission denied" in refusal(tmp_path / "closed" / "x.yaml")
