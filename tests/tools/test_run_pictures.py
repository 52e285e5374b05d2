"""Runs whose videos are pictures or folders of frames, from training to predictions, features and browsing."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.commands import call
from tests.experiment import CLASSES, CONFIG, results, run
from videofib.cli import main
from videofib.metrics.features import read_features

COUNTS = {"train": 12, "val": 3, "test": 6}


def picture(rng, label):
    image = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
    image[..., label] += 150
    return Image.fromarray(image)


def config(folder, **data):
    changed = {**CONFIG, "DATA": {**CONFIG["DATA"], "PATH_TO_DATA_DIR": str(folder), **data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(changed))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of classes of pictures, of several formats."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            path = folder / split / CLASSES[number % 3] / f"{number}.{('png', 'jpg', 'webp', 'bmp')[number % 4]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(rng, number % 3).save(path)
    return config(folder, NUM_FRAMES=1)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Lists of folders of frames, with their numbers, as TSN's are; other pictures lie beside the frames."""
    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        rows = []
        for number in range(count):
            name = f"{split} {number}"
            (folder / name).mkdir()
            for frame in range(1, 13):
                picture(rng, number % 3).save(folder / name / f"img_{frame:05d}.jpg", quality=95)
                picture(rng, 0).convert("L").save(folder / name / f"flow_x_{frame:05d}.jpg")
            rows.append(f"{name} 12 {number % 3}\n")
        (folder / f"{split}.csv").write_text("".join(rows))
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return config(folder, FRAME_COUNTS=True, FRAME_PATTERN="img_%05d.jpg", FRAME_RATE=15)


@pytest.fixture(scope="module")
def trained_on_pictures(pictures, tmp_path_factory):
    return run(pictures, tmp_path_factory.mktemp("run"), "TEST.NUM_ENSEMBLE_VIEWS", 1, "SOLVER.MAX_EPOCH", 3)


def test_pictures_train_and_test(trained_on_pictures):
    found = results(trained_on_pictures)
    assert (found["num_videos"], found["num_views"], found["skipped"]) == (6, 3, [])
    assert found["top1_acc"] == 100


@pytest.mark.parametrize("attention", ["space_only", "divided_space_time"])
def test_models_of_other_kinds_take_one_frame(attention, pictures, tmp_path):
    mixers = {"space_only": ["SPACE"], "divided_space_time": ["SPACE", "TIME"]}[attention]
    words = [word for kind in mixers for word in (f"ATTENTION.{kind}", "fibottention")]
    words += ["TIMESFORMER.ATTENTION_TYPE", attention, "ATTENTION.JOINT", "dense", "SOLVER.MAX_EPOCH", 1]
    found = results(run(pictures, tmp_path / "run", *words, "TEST.NUM_ENSEMBLE_VIEWS", 1))
    assert found["num_videos"] == 6


def test_several_clips_of_pictures_are_warned_about_and_change_nothing(trained_on_pictures, pictures, tmp_path, capsys):
    weights = ["TEST.CHECKPOINT_FILE_PATH", trained_on_pictures / "checkpoints/checkpoint_epoch_00003.pyth"]
    again = run(pictures, tmp_path / "run", *weights, "TEST.NUM_ENSEMBLE_VIEWS", 4, stages=["test"])
    assert results(again)["top1_acc"] == results(trained_on_pictures)["top1_acc"]
    assert results(again)["num_views"] == 12
    assert "all 4 clips of TEST.NUM_ENSEMBLE_VIEWS are the same" in capsys.readouterr().out


def test_features_and_predictions_of_pictures(trained_on_pictures, pictures, tmp_path):
    named = sorted((pictures / "test").rglob("*.*"))
    done = call(main, ["predict", *named, "--model", trained_on_pictures, "--out", tmp_path / "p.jsonl"], check=True)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["predictions"][0]["class"] for row in rows] == [path.parent.name for path in named], done.stdout
    call(main, ["features", *named, "--model", trained_on_pictures, "--out", tmp_path / "f.npz"], check=True)
    assert read_features(tmp_path / "f.npz").values.shape == (6, 24)
    words = ["predict", pictures / "test", "--model", trained_on_pictures, "--out", tmp_path / "folder.jsonl"]
    call(main, words, check=True)  # a model of one frame takes each picture of a folder
    assert (tmp_path / "folder.jsonl").read_text() == (tmp_path / "p.jsonl").read_text()


def test_folders_of_frames_train_and_test(frames, tmp_path):
    out = run(frames, tmp_path / "run")
    found = results(out)
    assert (found["num_videos"], found["skipped"]) == (6, [])
    assert found["top1_acc"] >= 50
    browsed = call(main, ["browse", "--cfg", frames / "config.yaml", "--num", 3, "--draws", 1, "--out", tmp_path / "b"])
    assert ", 0 unreadable" in browsed.stdout, browsed.stderr
    named = frames / "test 0"
    call(main, ["predict", frames, "--model", out, "--out", tmp_path / "p.jsonl"], check=True)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["video"] for row in rows] == sorted(str(frames / f"{s} {n}") for s in COUNTS for n in range(COUNTS[s]))
    assert all(row["error"] is None for row in rows)
    call(main, ["predict", named, "--model", out, "--timeline", "--out", tmp_path / "timeline"], check=True)
    assert json.loads((tmp_path / "timeline/timeline.json").read_text())["fps"] == 15


def test_a_list_with_too_many_frames_is_reported_before_the_run(frames, tmp_path):
    (tmp_path / "data").mkdir()
    for split in COUNTS:
        text = (frames / f"{split}.csv").read_text()
        (tmp_path / f"data/{split}.csv").write_text(text.replace("val 1 12", "val 1 13"))
    words = ["DATA.PATH_TO_DATA_DIR", tmp_path / "data", "DATA.PATH_PREFIX", frames, "OUTPUT_DIR", tmp_path / "run"]
    done = call(main, ["train", "--cfg", frames / "config.yaml", *words])
    assert done.returncode
    assert "val split: val 1: " in done.stderr
    assert "val 1: the list gives 13 frames, and the folder has 12" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pattern_that_is_none_is_reported(frames, tmp_path):
    words = ["DATA.FRAME_PATTERN", "img_%s.jpg", "OUTPUT_DIR", tmp_path / "run"]
    done = call(main, ["train", "--cfg", frames / "config.yaml", *words])
    assert done.returncode
    assert "DATA.FRAME_PATTERN: pattern 'img_%s.jpg' of frames: expected a number" in done.stderr
    assert "Traceback" not in done.stderr
