"""Heat in the report of a run: what a test draws, what a page shows, and files of strangers."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.experiment import run
from videofib.config import load_config
from videofib.metrics.scores import read_scores, write_scores
from videofib.report.mistake_heat import HEAT_NAME, drawn, read_heat, write_heat
from videofib.report.page import write_report
from videofib.run.load import load
from videofib.run.loaders import read_records
from videofib.run.mistake_heat import write_mistake_heat

rng = np.random.default_rng(0)


def example(row=1, name="a.mp4", method="rollout"):
    frames = rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    return drawn(row, name, method, frames, [3, 7, 11, 15], rng.random((2, 2, 2)))


def test_what_is_written_is_read(tmp_path):
    written, missing = example(name="caf\udce9 \\.mp4"), []
    write_heat(tmp_path, [written])
    (found,) = read_heat(tmp_path, missing).values()
    assert not missing
    assert (found.row, found.method, found.strip.indices) == (1, "rollout", [3, 7, 11, 15])
    assert (found.strip.width, found.strip.height) == (128, 128)
    before, after = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one.strip.uri.partition(",")[2])))).astype(int)
        for one in (written, found)
    )
    assert before.shape == (128, 512, 3)
    assert np.abs(before - after).mean() < 3
    write_heat(tmp_path, [])
    assert not (tmp_path / HEAT_NAME).exists()
    assert read_heat(tmp_path, missing) == {}
    assert not missing


def jpeg(size, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": "<script>"}, "cannot be decoded"),
        ({"picture": jpeg((512, 128), "PNG")}, "cannot be decoded"),
        ({"picture": jpeg((512, 128))[:200]}, "cannot be decoded"),
        ({"picture": jpeg((640, 128))}, "another size than its entry says"),
        ({"width": 0}, "impossible size"),
        ({"width": 10**9}, "impossible size"),
        ({"height": 5000}, "impossible size"),
        ({"frames": []}, "no frames"),
        ({"frames": [None]}, "no frames"),
        ({"frames": ["<b>"]}, "expected a count"),
        ({"method": "<b>"}, "a method other than rollout, gradcam"),
        ({"row": -1}, "expected a count"),
        ({"id": 7}, "expected a text"),
    ],
)
def test_a_strangers_file_leaves_the_heat_out_and_says_why(tmp_path, changes, message):
    write_heat(tmp_path, [example()])
    content = json.loads((tmp_path / HEAT_NAME).read_text())
    content["videos"][0].update(changes)
    (tmp_path / HEAT_NAME).write_text(json.dumps(content))
    missing = []
    assert read_heat(tmp_path, missing) == {}
    assert len(missing) == 1
    assert missing[0].startswith(f"{HEAT_NAME}: ")
    assert message in missing[0]


@pytest.mark.slow
def test_a_run_draws_heat_of_its_mistakes(experiment, tmp_path):
    out = run(experiment, tmp_path / "run", "REPORT.EXPLAIN", True, "SOLVER.BASE_LR", 1e-6, "REPORT.NUM_VIDEOS", 2)
    entries = json.loads((out / HEAT_NAME).read_text())["videos"]
    assert len(entries) == 2
    assert all(entry["id"].startswith("test ") for entry in entries)
    page = (out / "report.html").read_text()
    assert page.count("what the model looked at in the middle clip") == 2
    assert "Play heat of video 2" in page
    # the heat of another test is not shown
    content = json.loads((out / HEAT_NAME).read_text())
    content["videos"][0]["id"] = "other.mp4"
    (out / HEAT_NAME).write_text(json.dumps(content))
    page = write_report(out).read_text()
    assert page.count("what the model looked at in the middle clip") == 1
    # a test without it removes the old one
    run(experiment, out, "TRAIN.ENABLE", False, "REPORT.NUM_VIDEOS", 2)
    assert not (out / HEAT_NAME).exists()


@pytest.fixture
def wrong(experiment, trained, tmp_path):
    """The config, model and videos of a test whose scores are those of the next class: all are mistakes."""
    words = ["REPORT.EXPLAIN", "True", "OUTPUT_DIR", str(tmp_path), "DATA.PATH_TO_DATA_DIR", str(experiment)]
    cfg = load_config(trained / "config.yaml", words, notes=[])
    scores = read_scores(trained / "test_scores.parquet")
    write_scores(tmp_path / "test_scores.parquet", replace(scores, scores=scores.scores.roll(1, dims=1)))
    return cfg, load(trained).model, read_records(cfg, "test")


def test_heat_is_that_of_the_model_on_the_right_videos(wrong, experiment, trained, tmp_path):
    write_mistake_heat(*wrong)
    found = read_heat(tmp_path, [])
    assert {video.id for video in found.values()} == {f"test {index}.mp4" for index in range(5)}
    for row, video in found.items():
        assert video.id == f"test {row}.mp4"
        explained = load(trained).explain(experiment / video.id)
        (view,) = explained.views
        own = drawn(row, video.id, "rollout", view.clip.frames, view.clip.indices, view.heat["rollout"])
        assert video.strip.indices == own.strip.indices
        pictures = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(one.strip.uri.partition(",")[2])))).astype(int)
            for one in (video, own)
        ]
        assert np.abs(pictures[0] - pictures[1]).mean() < 3


def test_a_test_does_not_fail_where_heat_cannot_be_drawn(wrong, tmp_path, caplog):
    cfg, model, records = wrong
    model.blocks[0].attn = torch.nn.Identity()
    with caplog.at_level("WARNING"):
        write_mistake_heat(cfg, model, records)
    assert not (tmp_path / HEAT_NAME).exists()
    assert "could not be explained: TypeError: " in caplog.text
