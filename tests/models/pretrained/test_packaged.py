"""Models that come with videofib: found by name, after files and before the Hub, and as good as their card says."""

import re

import numpy as np
import pytest

import videofib
from tests.commands import call
from videofib.checkpoint.file import CheckpointError
from videofib.cli import main
from videofib.models.pretrained.hub import locate
from videofib.models.pretrained.packaged import packaged_models
from videofib.prep.encode import write_video
from videofib.prep.motion import CLASSES, FPS, MotionClip, MotionSet, render

NAME = "motion_xxs"
FRESH = MotionSet(seed=20261130)  # neither that of the training data nor one on which anything was chosen


@pytest.fixture
def offline(monkeypatch):
    """Any download is a failure."""
    monkeypatch.setattr("videofib.models.pretrained.hub._download", lambda *_: pytest.fail("asked the Hub"))


def test_lists_say_which_models_have_weights():
    assert videofib.list_models(pretrained=True) == list(packaged_models())
    assert NAME in videofib.list_models(pretrained=True)
    assert NAME in videofib.list_models()
    assert NAME not in videofib.list_models(pretrained=False)
    assert videofib.list_models("*divided*", pretrained=True) == []
    with pytest.raises(ValueError, match=r"'motion_xxs' is a trained model; load it with videofib\.load"):
        videofib.create_model(NAME)


def test_a_folder_of_the_same_name_comes_first(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(NAME) == packaged_models()[NAME]
    (tmp_path / NAME).mkdir()
    assert str(locate(NAME)) == NAME
    with pytest.raises(CheckpointError):
        videofib.load(NAME)  # an empty folder is no model, and no other one stands for it


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("motion_xs", r"no model at motion_xs \(did you mean motion_xxs\?\); name a checkpoint"),
        ("Motion_XXS", r"did you mean motion_xxs"),
        ("zebra", r"no model at zebra; name .*one of videofib's own \(.*motion_xxs.*\), or owner/model"),
        ("~nobody-of-that-name/run", r"no model at ~nobody"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(offline, name, said, tmp_path, monkeypatch):
    if "/" in name:
        monkeypatch.setattr("videofib.models.pretrained.hub._REPOSITORY", re.compile("$^"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        videofib.load(name)


def test_each_packaged_model_is_complete_and_has_a_card():
    for name, folder in packaged_models().items():
        assert sorted(file.name for file in folder.iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ]
        assert sum(file.stat().st_size for file in folder.iterdir()) < 1 << 20
        saved = videofib.load(name)
        assert saved.results["num_videos"] > 0
        card = (folder / "README.md").read_text()
        for heading in ("Training data", "Command", "Accuracy", "Seed", "Machine", "Licence"):
            assert f"## {heading}" in card
        assert f"{saved.results['top1_acc']:.1f} %" in card
        assert not re.search(r"/(tmp|home|root|work)/", card + (folder / "config.json").read_text())


def test_it_names_the_movement_in_clips_that_it_has_never_seen(offline, tmp_path):
    """Three fresh clips of each class; 87 % of many more are right with these views, and chance is one in eight."""
    saved, right = videofib.load(NAME), 0
    assert list(saved.classes) == list(CLASSES)
    clips = [MotionClip(label, 1, number) for label in CLASSES for number in (1, 2, 3)]
    for clip in clips:
        write_video(tmp_path / clip.path, render(clip, FRESH), FPS)
    for clip, prediction in zip(
        clips, saved.predict_all([tmp_path / clip.path for clip in clips], views=(2, 1)), strict=True
    ):
        assert prediction.error == ""
        right += prediction.top(1)[0][0] == clip.label
    assert right >= 18, f"{right} of {len(clips)}"
    frames = np.ascontiguousarray(render(clips[0], FRESH))
    assert saved.predict(frames, fps=FPS)[0][0] == saved.predict(tmp_path / clips[0].path)[0][0]


def test_the_command_takes_its_name(offline, tmp_path):
    clip = MotionClip("MoveLeft", 1, 1)
    write_video(tmp_path / clip.path, render(clip, FRESH), FPS)
    done = call(main, ["predict", tmp_path / clip.path, "--model", NAME, "--top", "1"], check=True)
    assert "MoveLeft" in done.stdout.splitlines()[1]
