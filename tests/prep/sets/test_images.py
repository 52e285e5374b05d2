"""``videofib prep images``: folders of classes and CIFAR become pictures, lists and a manifest."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import call
from tests.prep.test_cifar import TEN, archive, official
from videofib.commands.prep import main
from videofib.data.lists.manifest import read_manifest
from videofib.data.lists.shard_index import read_shards
from videofib.data.lists.splits import load_split
from videofib.data.video.decode import read_frames

RNG = np.random.default_rng(0)


def picture(height=40, width=60):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def prepare(tmp_path):
    def run(source, *options, check=True):
        words = ["images", "--images", source, "--out", tmp_path / "out", "--jobs", "1", *options]
        return call(main, words, check=check)

    return run


@pytest.fixture
def classes(tmp_path):
    """Two classes of ten pictures of many kinds, one of which is cut off."""
    for label in ("cat", "dog big"):
        folder = tmp_path / "raw" / label
        folder.mkdir(parents=True)
        for number in range(10):
            Image.fromarray(picture()).save(folder / f"{number}.{('png', 'jpg', 'webp', 'bmp')[number % 4]}")
    broken = tmp_path / "raw/cat/4.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    (tmp_path / "raw/cat/notes.txt").write_text("no picture")
    return tmp_path / "raw"


def records(out, split):
    return [(record.video_id, record.label) for record in load_split(out, split)]


def test_folders_of_classes(prepare, classes, tmp_path):
    done = prepare(classes, "--val-fraction", "0.2")
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    assert (report["listed"], report["prepared"], report["classes"]) == (20, 19, 2)
    assert report["corrupt"] == ["cat/4.png: the picture does not decode: image file is truncated"] or (
        len(report["corrupt"]) == 1 and report["corrupt"][0].startswith("cat/4.png: the picture does not decode")
    )
    assert "cat/notes.txt" in report["ignored"]
    assert "seeking" not in done.stdout
    assert report["read_in_order_only"] == []
    assert report["encoding"] == {"codec": "png", "short_side": 0}
    assert (out / "classes.txt").read_text() == "cat\ndog big\n"
    lists = {split: records(out, split) for split in ("train", "val", "test")}
    assert lists["val"] == lists["test"]
    assert {name for name, _ in lists["train"]}.isdisjoint(name for name, _ in lists["val"])
    assert len(lists["train"]) + len(lists["val"]) == 19
    for row in read_manifest(out / "manifest.parquet"):
        if row.status == "ok":
            assert (row.num_frames, row.width, row.height, row.codec, row.fps) == (1, 60, 40, "png", 0)
            written, source = read_frames(out / row.path, [0]), read_frames(classes / row.source, [0])
            assert np.array_equal(written, source)
    assert call(main, ["verify", out, "--jobs", "1"]).returncode == 0


def test_a_second_run_does_nothing_and_a_lost_file_is_made_again(prepare, classes, tmp_path):
    prepare(classes)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    lost = next(path for path in files if path.suffix == ".png")
    times = {path: path.stat().st_mtime_ns for path in files if path.suffix == ".png" and path != lost}
    lost.unlink()
    prepare(classes)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_pictures_are_scaled_upright_and_compressed(prepare, tmp_path):
    (tmp_path / "raw/a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = np.zeros((400, 600, 3), np.uint8) + np.linspace(0, 255, 600).astype(np.uint8)[None, :, None]
    Image.fromarray(smooth).save(tmp_path / "raw/a/turned.jpg", exif=exif, quality=95)
    Image.fromarray(smooth[..., 0]).save(tmp_path / "raw/a/grey.png")
    Image.fromarray(picture(20, 30)).save(tmp_path / "raw/a/small.png")
    prepare(tmp_path / "raw", "--short-side", "100", "--format", "jpeg", "--quality", "90")
    found = {row.source: row for row in read_manifest(tmp_path / "out/manifest.parquet")}
    assert (found["a/turned.jpg"].width, found["a/turned.jpg"].height) == (100, 150)
    assert (found["a/grey.png"].width, found["a/grey.png"].height) == (150, 100)
    assert (found["a/small.png"].width, found["a/small.png"].height) == (30, 20)
    assert {row.codec for row in found.values()} == {"jpeg"}
    grey = read_frames(tmp_path / "out" / found["a/grey.png"].path, [0])[0]
    assert np.abs(grey[50, ::10, 0].astype(int) - smooth[0, 2::40, 0][: len(grey[50, ::10])]).max() < 6
    turned = read_frames(tmp_path / "out" / found["a/turned.jpg"].path, [0])[0]
    assert turned[0].mean() < 20  # its bright end is below
    assert turned[-1].mean() > 235


def test_pictures_of_few_pixels_are_no_leaks(prepare, tmp_path):
    same = {side: picture(side, side) for side in (8, 32)}
    for split in ("train", "test"):
        for side in same:
            (tmp_path / f"raw/{split}/a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(same[side]).save(tmp_path / f"raw/{split}/a/{side}.png")
    prepare(tmp_path / "raw")
    leaks = json.loads((tmp_path / "out/report.json").read_text())["leaks_by_picture"]
    assert any("32.png" in leak for leak in leaks)
    assert not [leak for leak in leaks if "8.png" in leak]


def test_divided_folders_are_read_as_those_of_videos(prepare, tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "Validation/a/3.png", "test/b/4.png"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        Image.fromarray(picture()).save(tmp_path / "raw" / name)
    prepare(tmp_path / "raw")
    found = {split: [label for _, label in records(tmp_path / "out", split)] for split in ("train", "val", "test")}
    assert found == {"train": [0, 1], "val": [0], "test": [1]}


def test_cifar(prepare, tmp_path):
    contents, truth = official(10)
    path = archive(tmp_path / "cifar-10-binary.tar.gz", contents)
    prepare(path, "--val-fraction", "0.25")
    out = tmp_path / "out"
    assert (out / "classes.txt").read_text().split() == TEN
    rows = read_manifest(out / "manifest.parquet")
    labels, pictures = (np.concatenate([value[part] for value in truth.values()]) for part in (0, 1))
    assert [row.label for row in rows] == labels.tolist()
    assert {row.source for row in rows} == {"cifar-10-binary.tar.gz"}
    for row, expected in zip(rows, pictures, strict=True):
        assert np.array_equal(read_frames(out / row.path, [0])[0], expected)
        assert row.path.startswith(f"videos/{TEN[row.label]}/")
    lists = {split: {name for name, _ in records(out, split)} for split in ("train", "val", "test")}
    assert len(lists["test"]) == 3
    assert lists["val"]
    assert lists["train"].isdisjoint(lists["val"])
    assert len(lists["train"] | lists["val"]) == 20
    report = json.loads((out / "report.json").read_text())
    assert len(report["counts_unlike_the_official"]) == 2
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    prepare(path, "--val-fraction", "0.25")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_cifar_without_validation_tests_on_the_validation_set(prepare, tmp_path):
    prepare(archive(tmp_path / "a.tar.gz", official(100, counts=(6, 3))[0]))
    assert records(tmp_path / "out", "val") == records(tmp_path / "out", "test")
    assert len(records(tmp_path / "out", "train")) == 6


def test_prepared_pictures_may_be_packed(prepare, classes, tmp_path):
    prepare(classes)
    call(main, ["shards", tmp_path / "out", "--out", tmp_path / "shards"], check=True)
    packed = read_shards(tmp_path / "shards", "train")
    assert len(packed) == 19
    for record in packed:
        (expected,) = read_frames(tmp_path / "out" / record.video_id, [0])
        assert np.array_equal(read_frames(record.path, [0])[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "90"], "--quality is of --format jpeg"),
        (["--format", "jpeg", "--quality", "96"], "--quality 96 must be from 1 to 95"),
        (["--short-side", "-1"], "--short-side -1 must be from 0"),
        (["--jobs", "0"], "--jobs 0 must be 1 or above"),
        (["--val-fraction", "1"], "--val-fraction is 1.0"),
        (["--val-groups", "a"], "--val-groups needs --group-regex"),
        (["--address", "auto"], "needs --engine ray"),
    ],
)
def test_options_that_cannot_be_are_one_line(options, message, prepare, classes):
    done = prepare(classes, *options, check=False)
    assert done.returncode
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_folders_without_pictures_and_groups_of_cifar_are_one_line(prepare, tmp_path):
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "raw/a/notes.txt").write_text("none")
    for source, options, message in (
        (tmp_path / "raw", [], "has no"),
        (tmp_path / "absent", [], "does not exist"),
        (archive(tmp_path / "a.tar.gz", official(10)[0]), ["--group-regex", "a"], "do not apply to CIFAR"),
    ):
        done = prepare(source, *options, check=False)
        assert done.returncode
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
