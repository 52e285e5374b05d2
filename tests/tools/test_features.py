"""``videofib features``: what the model gives, in files with labels and errors, through kills, in shards."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import videofib.run.features
from videofib.commands.features import main
from videofib.metrics.features import read_all, read_features
from videofib.metrics.table import UNLABELLED
from videofib.run.features import extract
from videofib.run.load import load


@pytest.fixture(scope="module")
def saved(trained):
    return load(trained)


@pytest.fixture
def extracted(trained, tmp_path):
    """``extracted(*words)``: the file that the command writes."""

    def run(*words, name="out.npz"):
        main([*map(str, words), "--model", str(trained), "--out", str(tmp_path / name), "--workers", "0"])
        return read_features(tmp_path / name)

    return run


@pytest.mark.parametrize("name", ["out.npz", "out.parquet"])
def test_a_row_for_each_video_of_a_list_with_labels(name, extracted, saved, experiment, tmp_path, capsys):
    options = ["--kind", "frames", "--block", "0", "--views", "1", "3"]
    found = extracted("--list", experiment / "test.csv", *options, name=name)
    expected = [*(str(experiment / f"test {index}.mp4") for index in range(5)), str(experiment / "broken.mp4")]
    assert found.videos == expected
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert [bool(error) for error in found.errors] == [False] * 5 + [True]
    assert np.isnan(found.values[5]).all()
    for video, values in zip(expected[:5], found.values, strict=False):
        alone = saved.features(video, views=(1, 3), kind="frames", block=0)
        np.testing.assert_allclose(values, alone.numpy(), rtol=0, atol=1e-5)
    about = found.about
    assert (about["kind"], about["block"], about["views"], about["shape"]) == ("frames", 0, [1, 3], [2, 24])
    shown = capsys.readouterr()
    assert shown.out == f"wrote frames features of 5 videos to {tmp_path / name}\n"
    assert [line[:6] for line in shown.err.splitlines()] == ["error:", "1 of 6"]
    assert not (tmp_path / f"{name}.parts").exists()


def test_videos_are_found_as_predict_finds_them(extracted, experiment, tmp_path):
    for name in ("b/c d.mp4", "._b.mp4", "b/caf\udce9.mp4"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(experiment / "test 1.mp4", tmp_path / "v" / name)
    (tmp_path / "list").write_text(f"v/b/c d.mp4\n{experiment.as_uri()}/test%200.mp4\n".replace("%20", " "))
    found = extracted(experiment / "test 2.mp4", tmp_path / "v", "--list", tmp_path / "list")
    names = ["v/b/c d.mp4", "v/b/caf\udce9.mp4", "v/b/c d.mp4"]
    assert found.videos[1:4] == [str(tmp_path / name) for name in names]
    assert (found.videos[0], found.videos[4]) == (
        str(experiment / "test 2.mp4"), f"{experiment.as_uri()}/test 0.mp4",
    )  # fmt: skip
    assert set(found.labels.tolist()) == {UNLABELLED}
    assert not any(found.errors)


def test_shards_are_the_list(extracted, experiment, tmp_path):
    all_of_them = extracted("--list", experiment / "test.csv")
    for index in range(4):
        extracted("--list", experiment / "test.csv", "--shard", f"{index}/4", name=f"{index}.parquet")
    together = read_all([tmp_path / f"{index}.parquet" for index in range(4)])
    order = [together.videos.index(video) for video in all_of_them.videos]
    assert sorted(order) == list(range(6))
    np.testing.assert_allclose(together.values[order], all_of_them.values, rtol=0, atol=1e-5)
    assert together.labels[order].tolist() == all_of_them.labels.tolist()


def names_in(folder):
    return [path.name for path in folder.iterdir()]


class Stopped(Exception):
    pass


@pytest.fixture
def interrupted(saved, experiment, tmp_path, monkeypatch):
    """``interrupted(**options)``: extraction of five videos, two a part, that fails while it writes the third part."""
    monkeypatch.setattr(videofib.run.features, "MOST_VIDEOS", 2)
    videos, file = [str(experiment / f"test {index}.mp4") for index in range(5)], tmp_path / "out.npz"
    add = videofib.run.features.Parts.add

    def failing(parts, first, part):
        if first == 4:
            raise Stopped
        add(parts, first, part)

    with monkeypatch.context() as patch:
        patch.setattr(videofib.run.features.Parts, "add", failing)
        with pytest.raises(Stopped):
            extract(saved, videos, [0, 1, 2, 0, 1], file)
    return videos, file


def test_finished_videos_are_not_read_again(interrupted, saved, monkeypatch):
    videos, file = interrupted
    read, plain = [], type(saved).features_all

    def noted(self, videos, **options):
        read.extend(videos)
        return plain(self, videos, **options)

    monkeypatch.setattr(type(saved), "features_all", noted)
    lines = []
    assert extract(saved, videos, [0, 1, 2, 0, 1], file, report=lines.append) == 5
    assert read == videos[4:]
    assert lines == ["4 of 5 videos are finished"]
    resumed = read_features(file)
    assert extract(saved, videos, [0, 1, 2, 0, 1], file) == 5
    assert resumed.videos == videos
    np.testing.assert_allclose(resumed.values, read_features(file).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"views": (1, 1)}, "views"),
        ({"kind": "frames"}, "kind"),
        ({"block": 0}, "block"),
        ({"labels": [0, 1, 2, 0, 0]}, "videos"),
        ({"videos": 4}, "videos"),
        ({"options": {"DATA.SAMPLING_RATE": 2}}, "input"),
        ({"weights": 1}, "weights"),
    ],
)
def test_parts_of_something_else_are_refused(changed, name, interrupted, trained):
    videos, file = interrupted
    other = load(trained, options=changed.pop("options", {}))
    if changed.pop("weights", 0):
        other.model.head.bias.data += 1
    labels = changed.pop("labels", [0, 1, 2, 0, 1])
    videos = videos[: changed.pop("videos", 5)]
    with pytest.raises(ValueError, match=f"has finished videos of features with other {name}; finish these with"):
        extract(other, videos, labels[: len(videos)], file, **changed)


def test_a_damaged_part_is_done_again(interrupted, saved):
    videos, file = interrupted
    part = file.with_name("out.npz.parts") / "part-000000000.npz"
    part.write_bytes(part.read_bytes()[:-9])
    lines = []
    extract(saved, videos, [0, 1, 2, 0, 1], file, report=lines.append)
    assert "part-000000000.npz is damaged" in lines[0]
    assert len(lines) == 1
    assert read_features(file).videos == videos


def test_the_first_videos_cannot_be_read(saved, experiment, tmp_path, monkeypatch):
    """A part without features has no shape of its own."""
    monkeypatch.setattr(videofib.run.features, "MOST_VIDEOS", 2)
    videos = ["absent.mp4", str(experiment / "broken.mp4"), str(experiment / "test 0.mp4")]
    assert extract(saved, videos, [0, 1, 2], tmp_path / "a.parquet") == 1
    found = read_features(tmp_path / "a.parquet")
    assert found.values.shape == (3, 24)
    assert np.isnan(found.values).all(axis=1).tolist() == [True, True, False]


@pytest.mark.slow
def test_a_killed_process_is_continued(trained, experiment, tmp_path):
    script = f"""
import os, signal
import videofib.run.features as features
from videofib.commands.features import main
features.MOST_VIDEOS = 2
add = features.Parts.add
def add_and_die(parts, first, part):
    add(parts, first, part)
    if first == 2:
        os.kill(os.getpid(), signal.SIGKILL)
features.Parts.add = add_and_die
main(["--list", {str(experiment / "test.csv")!r}, "--model", {str(trained)!r}, "--out", "out.parquet"])
"""
    command = [sys.executable, "-c", script.replace('"out.parquet"]', '"out.parquet", "--workers", "0"]')]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert names_in(tmp_path) == ["out.parquet.parts"]
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "4 of 6 videos are finished" in second.stderr
    assert names_in(tmp_path) == ["out.parquet"]
    assert read_features(tmp_path / "out.parquet").labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.mp4"], "error: none of the 1 videos could be read"),
        (["a.mp4", "--block", "9"], "error: no block 9 in a model of 1"),
        (["a.mp4", "--views", "2", "2"], r"error: views must be \(temporal clips"),
        (["a.mp4", "--shard", "1/2"], "error: shard 1/2 of 1 videos is empty"),
        (["--list", "absent.csv"], "error: no list file at absent.csv"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, message, trained, tmp_path):
    with pytest.raises(SystemExit, match=message) as stopped:
        main([*words, "--model", str(trained), "--out", str(tmp_path / "a.npz"), "--workers", "0"])
    assert "\n" not in str(stopped.value)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-"],
        ["a", "--out", "a.csv"],
        ["a", "--shard", "2/2"],
        ["a", "--shard", "1"],
        ["a", "--kind", "x"],
        ["a", "--precision", "x"],
    ],
)
def test_options_that_cannot_be(words):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--model", "m", "--out", "a.npz", *words])
