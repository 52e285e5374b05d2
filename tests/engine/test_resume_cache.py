"""Finished videos on the disk: a later start repeats none of them, and uses none of another test."""

import hashlib
import json
import logging
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from tests.engine.in_memory import Loader, TinyNet, make_videos
from videofib.engine.evaluate import ColumnAccumulator, Scoring, evaluate
from videofib.engine.resume_cache import ResumeCache, describe
from videofib.metrics.tasks import EvaluationError

VIDEOS = 9
ABOUT = {"weights": "abc", "DATA": "{}"}


def interrupted(loader, after):
    """The loader, which fails after so many batches."""
    batches = iter(loader)
    for _ in range(after):
        yield next(batches)
    raise KeyboardInterrupt


class Until:
    def __init__(self, loader, after):
        self.dataset, self.loader, self.after = loader.dataset, loader, after

    def __iter__(self):
        return interrupted(self.loader, self.after)

    def __len__(self):
        return len(self.loader)


def start(folder, *, after=None, failures=None, about=ABOUT, period=0.0):
    """One start of a test on what is left; returns its figures, scores and the videos that it was to read."""
    views, labels = make_videos(VIDEOS, num_views=3)
    cache = ResumeCache(folder, about, period, VIDEOS)
    left = [index for index in range(VIDEOS) if index not in cache.indices]
    loader = Loader(views, labels, left, 1, failures=failures)
    options = {"view_batch_size": 4, "scoring": Scoring(details=True), "cache": cache}
    if after is not None:
        with pytest.raises(KeyboardInterrupt):
            evaluate(TinyNet(), Until(loader, after), **options)
        return left
    figures, scores = evaluate(TinyNet(), loader, **options)
    return figures, scores, left


def test_a_later_start_repeats_nothing_and_finds_the_same(tmp_path):
    figures, scores, _ = start(tmp_path / "calm")
    assert start(tmp_path / "cut", after=3) == list(range(VIDEOS))
    # views go through in fours: of three videos with three each, two are finished
    assert start(tmp_path / "cut", after=4) == list(range(2, VIDEOS))
    again, more, left = start(tmp_path / "cut")
    assert left == list(range(6, VIDEOS))  # four videos are three full passes
    assert again == figures
    assert torch.equal(more.scores, scores.scores)
    assert torch.equal(more.hits, scores.hits)
    assert torch.equal(more.view_correct, scores.view_correct)
    # even when everything was finished and only the results were not written
    again, more, left = start(tmp_path / "cut")
    assert left == []
    assert again == figures
    assert torch.equal(more.scores, scores.scores)


def test_an_unreadable_video_is_tried_again(tmp_path):
    broken = {"v0.mp4": "no such file"}
    figures, _, _ = start(tmp_path, failures=broken)
    assert [entry["video"] for entry in figures["skipped"]] == ["v0.mp4"]
    figures, scores, left = start(tmp_path)
    assert left == [0]
    assert figures["skipped"] == []
    assert scores.scores.isfinite().all()


def test_parts_of_another_test_are_not_used_and_the_log_says_so(tmp_path, caplog):
    start(tmp_path, after=5)
    with caplog.at_level(logging.WARNING):
        assert start(tmp_path, about={**ABOUT, "weights": "def"}, after=1) == list(range(VIDEOS))
    assert "belongs to a test with other weights: it is not used" in caplog.text


def test_a_damaged_part_is_tested_again(tmp_path, caplog):
    start(tmp_path, after=5)
    first, *others = sorted(tmp_path.glob("*/part-*"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        left = start(tmp_path, after=0)
    assert f"{first} is damaged; its videos are tested again" in caplog.text
    assert len(left) == VIDEOS - len(others)


def _written(folder, part):
    content = save(part)
    (folder / f"part-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)


UNUSABLE = {
    "it is not a regular file": lambda folder, part: os.mkfifo(folder / "part-0.safetensors"),
    "its bytes are not those that were written": lambda folder, part: (folder / "part-1.safetensors").touch(),
    "it has no indices of videos": lambda folder, part: _written(folder, {"scores": part["scores"]}),
    "its columns have other lengths": lambda folder, part: _written(folder, {**part, "indices": torch.arange(9)}),
    "it has videos 0 to 77 of 9": lambda folder, part: _written(folder, {**part, "indices": torch.tensor([0, 77])}),
    "it has videos -1 to 7 of 9": lambda folder, part: _written(folder, {**part, "indices": torch.tensor([-1, 7])}),
    "it has scores that are not finite": lambda folder, part: _written(folder, {**part, "scores": part["scores"] / 0}),
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_part_that_cannot_be_of_this_test_is_named_and_its_videos_are_tested(tmp_path, caplog, reason):
    figures, scores, _ = start(tmp_path / "calm")
    start(tmp_path / "cut", after=4)
    (folder,) = (tmp_path / "cut").iterdir()
    part = {name: values[:2].clone() for name, values in ResumeCache(tmp_path / "cut", ABOUT, 0.0).earlier.items()}
    UNUSABLE[reason](folder, part)
    with caplog.at_level(logging.WARNING):
        again, more, left = start(tmp_path / "cut")
    assert f"is damaged; its videos are tested again ({reason})" in caplog.text
    assert again == figures
    assert left
    assert torch.equal(more.scores, scores.scores)


def test_parts_with_other_columns_end_the_test_in_one_line(tmp_path):
    start(tmp_path, after=4)
    (folder,) = tmp_path.iterdir()
    part = ResumeCache(tmp_path, ABOUT, 0.0).earlier
    for file in folder.glob("part-*"):
        file.unlink()
    _written(folder, {**part, "scores": part["scores"].double()})
    with pytest.raises(EvaluationError, match="have other columns than those of this one; remove the folder"):
        start(tmp_path)


def test_a_video_cached_twice_counts_once(tmp_path):
    start(tmp_path, after=5)
    cache = ResumeCache(tmp_path, ABOUT, 0.0)
    some = {name: values[:2] for name, values in cache.earlier.items()}
    cache.add(some)
    again = ResumeCache(tmp_path, ABOUT, 0.0)
    assert again.earlier["indices"].tolist().count(0) == 1
    assert again.indices == cache.indices


def test_parts_are_few_and_are_all_removed(tmp_path):
    start(tmp_path, period=1000.0)
    assert len(list(tmp_path.glob("*/part-*"))) == 1
    (tmp_path / "0123" / "x").mkdir(parents=True)
    ResumeCache(tmp_path, ABOUT, 0.0).remove()
    assert not tmp_path.exists()


def test_accumulated_columns_keep_their_order_in_few_tensors():
    rows = ColumnAccumulator(batches_per_chunk=3)
    assert rows.result() is None
    for count in (1, 2, 0, 4, 3, 1, 2):
        before = 0 if (found := rows.result()) is None else len(found["indices"])
        rows.add({"indices": torch.arange(before, before + count), "scores": torch.ones(count, 5) * before})
    assert rows.result()["indices"].tolist() == list(range(13))
    assert rows.result()["scores"].shape == (13, 5)
    assert len(rows._chunks) == 2
    assert len(rows._batches) == 1


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "parts").touch()
    with pytest.raises(EvaluationError, match=r"cannot keep finished videos in .*parts.*set TEST.RESUME False"):
        ResumeCache(tmp_path / "parts", ABOUT, 0.0)


def test_the_description_has_all_that_determines_the_scores():
    records = [SimpleNamespace(video_id="caf\udce9.mp4", path="a", label=1)]
    about = describe(TinyNet(), records, {"DATA": {"NUM_FRAMES": 8}})
    assert about == describe(TinyNet(), records, {"DATA": {"NUM_FRAMES": 8}})
    json.dumps(about)
    model = TinyNet()
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    for other in (
        describe(model, records, {"DATA": {"NUM_FRAMES": 8}}),
        describe(TinyNet(), [*records, *records], {"DATA": {"NUM_FRAMES": 8}}),
        describe(TinyNet(), records, {"DATA": {"NUM_FRAMES": 4}}),
    ):
        assert sum(other[name] != about[name] for name in about) == 1
