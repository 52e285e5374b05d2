"""Runs on lists with segments, names of classes, headers and repeated rows: they learn, and keep rows apart."""

import csv
import json
import re

import numpy as np
import pytest
import torch
import yaml

from tests.commands import call
from tests.experiment import CONFIG, newest, results, run
from videofib.checkpoint.file import load_checkpoint
from videofib.commands.browse import main as browse
from videofib.commands.ensemble import main as ensemble
from videofib.commands.features import main as features
from videofib.commands.predict import main as predict
from videofib.metrics.features import read_features
from videofib.metrics.scores import read_scores
from videofib.prep.afterwards.shards import main as shards
from videofib.prep.encode import write_video
from videofib.report.comparison import Comparison
from videofib.report.mistakes import mistakes_html
from videofib.report.scored_videos import read_scored_videos
from videofib.report.video_folders import VideoFolders

COLOURS = ["red", "green", "blue"]
FILMS = {"train film.mp4": 8, "val, film.mp4": 3, "test film.mp4": 5}  # parts of 16 frames, of each class in turn


def command(main, *words):
    """(status, output, errors) of a command."""
    done = call(main, words)
    return done.returncode, done.stdout, done.stderr


def rows_of(name, unit):
    scale = 16 / 30 if unit == "seconds" else 16
    for part in range(FILMS[name]):
        yield name, part * scale, (part + 1) * scale, COLOURS[part % 3]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder of three untrimmed videos, lists of their parts with names of classes, and a config."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for name, parts in FILMS.items():
        frames = rng.integers(0, 60, (16 * parts, 48, 64, 3), dtype=np.uint8)
        for part in range(parts):
            frames[16 * part : 16 * part + 16, ..., part % 3] += 150
        write_video(folder / name, frames, 30)
    write_lists(folder)
    data = {**CONFIG["DATA"], "PATH_TO_DATA_DIR": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "DATA": data}))
    return folder


def write_lists(folder):
    """One with a header in seconds, one in frames, one that a spreadsheet has quoted; a train row is repeated."""
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "video", "start", "end"])
        rows = [*rows_of("train film.mp4", "seconds")]
        writer.writerows((label, name, start, end) for name, start, end, label in [*rows, rows[0], rows[0], rows[3]])
    with (folder / "val.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["path", "start_frame", "end_frame", "class"])
        writer.writerows(
            (name, int(start), int(end), label) for name, start, end, label in rows_of("val, film.mp4", "frames")
        )
    with (folder / "test.csv").open("w") as file:
        file.write("path;start_time;end_time;category\n")
        for name, start, end, label in rows_of("test film.mp4", "seconds"):
            file.write(f"{name};{start:.4f};{end:.4f};{label}\n")


@pytest.fixture(scope="module")
def finished(films, tmp_path_factory):
    return run(films, tmp_path_factory.mktemp("finished") / "run", "SOLVER.MAX_EPOCH", 3)


def test_a_run_learns_from_parts_of_one_film_and_its_model_has_their_classes(finished):
    assert results(finished)["num_videos"] == 5
    assert results(finished)["top1_acc"] == 100
    assert load_checkpoint(newest(finished, 3))["classes"] == sorted(COLOURS)
    log = (finished / "log.txt").read_text()
    assert "11 train and 3 val videos" in log
    assert "the train list has 3 rows that are repeated, of 2 videos" in log


def test_rows_of_one_file_are_kept_apart_in_scores_and_predictions(films, finished):
    scores = read_scores(finished / "test_scores.parquet")
    assert [len(scores.ids), len(set(scores.ids)), len(set(scores.paths))] == [5, 5, 5]
    assert scores.ids[1] == "test film.mp4#t=0.5333,1.0667"
    assert scores.labels.tolist() == [2, 1, 0, 2, 1]  # blue, green, red
    assert scores.scores.argmax(1).tolist() == scores.labels.tolist()
    with (finished / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == [f"{films}/{name}" for name in scores.ids]
    assert [row["predicted_1"] for row in rows] == [row["class"] for row in rows]


def test_a_test_in_frames_of_numbers_has_the_same_scores(films, finished, tmp_path):
    number = {name: label for label, name in enumerate(sorted(COLOURS))}
    lines = [
        f"{name} {start:.0f} {end:.0f} {number[label]}\n"
        for name, start, end, label in rows_of("test film.mp4", "frames")
    ]
    (tmp_path / "test.csv").write_text("".join(lines))
    (tmp_path / "classes.txt").write_text("\n".join(sorted(COLOURS)))
    where = ["DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.PATH_PREFIX", films, "DATA.SEGMENTS", "frames"]
    again = run(films, tmp_path / "run", *where, "TEST.CHECKPOINT_FILE_PATH", newest(finished, 3), stages=["test"])
    one, other = (read_scores(folder / "test_scores.parquet") for folder in (finished, again))
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-6)
    assert other.ids[1] == "test film.mp4#frames=16,32"


def test_cut_files_have_the_same_scores(films, finished, tmp_path):
    """Frames of a file that was cut without loss."""
    from tests.data.clips.test_segments import cut

    for part in range(5):
        cut(films / "test film.mp4", tmp_path / f"{part}.mp4", 16 * part, 16 * part + 16)
    (tmp_path / "test.csv").write_text("".join(f"{part}.mp4 {COLOURS[part % 3]}\n" for part in range(5)))
    where = ["DATA.PATH_TO_DATA_DIR", tmp_path, "TEST.CHECKPOINT_FILE_PATH", newest(finished, 3)]
    cut_run = run(films, tmp_path / "run", *where, stages=["test"])
    one, other = (read_scores(folder / "test_scores.parquet") for folder in (finished, cut_run))
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-6)


def test_reports_comparisons_and_ensembles_keep_rows_apart(films, finished, tmp_path):
    page = (finished / "report.html").read_text()
    assert "5 test videos" in page
    code, out, _ = command(ensemble, *[str(finished / "test_scores.parquet")] * 2, "--out", str(tmp_path / "both"))
    assert code == 0
    assert "5 videos" in out
    comparison = Comparison([finished, finished])
    assert not comparison.warnings
    scored = read_scored_videos(finished, [])
    wrong = np.roll(scored.scores, 1, axis=1)
    mistakes = mistakes_html(type(scored)(**{**vars(scored), "scores": wrong}), 5, VideoFolders(everything=True))
    assert mistakes.count('<div class="player"') == 5
    shown = {tuple(map(int, text.split())) for text in re.findall(r'data-indices="([\d ]+)"', mistakes)}
    assert len(shown) == 5
    assert {indices[0] // 16 for indices in shown} == {indices[-1] // 16 for indices in shown} == set(range(5))


def test_a_segment_outside_of_its_film_is_a_failure_of_its_row_alone(films, finished, tmp_path):
    lines = (films / "test.csv").read_text() + "test film.mp4;2;99;red\n"
    (tmp_path / "test.csv").write_text(lines)
    where = ["DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.PATH_PREFIX", films]
    run(films, tmp_path / "run", *where, "TEST.CHECKPOINT_FILE_PATH", newest(finished, 3), stages=["test"])
    (skipped,) = results(tmp_path / "run")["skipped"]
    assert skipped["video"] == "test film.mp4#t=2,99"
    assert f"{tmp_path}/test.csv:7 is not within the video, which has 2.66667 seconds" in skipped["reason"]
    scores = read_scores(tmp_path / "run/test_scores.parquet")
    assert scores.scores.isfinite().all(1).tolist() == [True] * 5 + [False]


def test_a_class_that_the_model_lacks_is_named_with_its_row(films, finished, tmp_path, capsys):
    (tmp_path / "test.csv").write_text((films / "test.csv").read_text().replace("green", "gren"))
    where = ["DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.PATH_PREFIX", films]
    with pytest.raises(SystemExit):
        run(films, tmp_path / "run", *where, "TEST.CHECKPOINT_FILE_PATH", newest(finished, 3), stages=["test"])
    said = "test.csv:3: the class 'gren' is not among the 3 classes of the model; the nearest is 'green'"
    assert said in capsys.readouterr().err


def test_predict_and_features_take_lists_of_segments(films, finished, tmp_path):
    listed = films / "plain.txt"
    listed.write_text("".join(f"{name} {s:.0f} {e:.0f}\n" for name, s, e, _ in rows_of("test film.mp4", "frames")))
    for file, options in ((films / "test.csv", []), (listed, ["--segments", "frames"])):
        out = tmp_path / f"{file.stem}.jsonl"
        code, _, err = command(
            predict, "--list", str(file), *options, "--model", str(finished), "--workers", "0", "--out", str(out)
        )
        assert code == 0, err
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["predictions"][0]["class"] for line in found] == [COLOURS[part % 3] for part in range(5)]
        assert len({line["video"] for line in found}) == 5
        assert all(line["video"].startswith(f"{films}/test film.mp4#") for line in found)
        out = tmp_path / f"{file.stem}.npz"
        code, _, err = command(
            features, "--list", str(file), *options, "--model", str(finished), "--workers", "0", "--out", str(out)
        )
        assert code == 0, err
        values = read_features(out)
        assert len(set(values.videos)) == 5
        assert np.abs(values.values[0] - values.values[1]).max() > 1e-3
        expected = [2, 1, 0, 2, 1] if file.name == "test.csv" else [-1] * 5
        assert values.labels.tolist() == expected
    code, _, err = command(
        predict,
        "--list",
        str(listed),
        "--segments",
        "frames",
        "--model",
        str(finished),
        "--timeline",
        "--out",
        str(tmp_path),
    )
    assert code
    code, _, err = command(predict, str(films / "test film.mp4"), "--segments", "frames", "--model", str(finished))
    assert (code, "--segments is about the lines of --list" in err) == (2, True)


def test_browse_shows_the_clips_of_segments(films, tmp_path):
    code, out, err = command(
        browse, "--cfg", str(films / "config.yaml"), "--split", "val", "--num", "3", "--out", str(tmp_path / "b"),
    )  # fmt: skip
    assert code == 0, err
    assert "3 videos, 3 clips, 0 unreadable" in out
    page = (tmp_path / "b/index.html").read_text()
    for part in range(3):
        assert f"val, film.mp4#frames={16 * part},{16 * part + 16}" in page


def test_shards_refuse_segments(films, tmp_path):
    for name in ("test.csv", "test film.mp4"):
        (tmp_path / name).symlink_to(films / name)
    code, _, err = command(shards, str(tmp_path), "--out", str(tmp_path / "shards"))
    assert code == 1
    assert "test.csv:" in err
    assert "is a segment, and shards hold full videos; cut it first with videofib prep list" in err


def test_shards_have_no_rows_to_be_segments(experiment, tmp_path, capsys):
    assert command(shards, str(experiment), "--out", str(tmp_path))[0] == 0
    with pytest.raises(SystemExit):
        run(
            experiment, tmp_path / "run", "DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.SEGMENTS", "frames", stages=["train"]
        )
    assert "has the train split in shards, and DATA.SEGMENTS frames is about the rows" in capsys.readouterr().err


def test_samplers_count_the_frames_of_segments(films, tmp_path):
    for name in ("classes.txt", "train film.mp4", "val, film.mp4"):
        if (films / name).exists():
            (tmp_path / name).symlink_to(films / name)
    lines = [
        f"{name} {s:.0f} {e:.0f} {COLOURS.index(label)}\n" for name, s, e, label in rows_of("train film.mp4", "frames")
    ]
    (tmp_path / "train.csv").write_text("".join([*lines, lines[0]]))
    (tmp_path / "val.csv").write_text("".join(lines))
    where = ["DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.SEGMENTS", "frames", "SOLVER.MAX_EPOCH", 1]
    for sampler in ("length_bucketed", "class_balanced"):
        out = run(films, tmp_path / sampler, *where, "DATA_LOADER.SAMPLER", sampler, stages=["train"])
        assert newest(out, 1).is_file()


def test_a_folder_of_classes_has_no_rows_to_be_segments(experiment, tmp_path, capsys):
    (tmp_path / "train/red").mkdir(parents=True)
    (tmp_path / "train/red/a.mp4").symlink_to(experiment / "train 0.mp4")
    with pytest.raises(SystemExit):
        run(
            experiment,
            tmp_path / "run",
            "DATA.PATH_TO_DATA_DIR",
            tmp_path,
            "DATA.SEGMENTS",
            "seconds",
            "MODEL.NUM_CLASSES",
            1,
            stages=["train"],
        )
    assert "DATA.SEGMENTS seconds is about the rows of lists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unit", "rows", "said"),
    [
        (
            "seconds",
            "16 32 0",
            "are they in frames? then set DATA.SEGMENTS frames, or call the columns of a header start_f",
        ),
        ("frames", "5000 5001 0", "are they in seconds? then set DATA.SEGMENTS seconds"),
    ],
)
def test_segments_in_another_unit_are_noticed_before_the_run(unit, rows, said, films, tmp_path, capsys):
    (tmp_path / "train.csv").write_text(f"train film.mp4 {rows}\n" + f"train film.mp4 {rows}\n" * 30)
    (tmp_path / "val.csv").write_text("train film.mp4 0 2 0\n")
    with pytest.raises(SystemExit):
        run(
            films, tmp_path / "run", "DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.PATH_PREFIX", films,
            "DATA.SEGMENTS", unit, stages=["train"],
        )  # fmt: skip
    error = capsys.readouterr().err
    assert "none of the first 20 segments of the train split can be read, such as" in error
    assert f"of {tmp_path}/train.csv:1 is not within the video" in error
    assert said in error


def test_a_test_list_of_some_classes_is_read_with_those_of_the_model(films, finished, tmp_path):
    lines = [line for line in (films / "test.csv").read_text().splitlines() if not line.endswith(("green", "blue"))]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    where = ["DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.PATH_PREFIX", films]
    run(films, tmp_path / "run", *where, "TEST.CHECKPOINT_FILE_PATH", newest(finished, 3), stages=["test"])
    scores = read_scores(tmp_path / "run/test_scores.parquet")
    assert scores.labels.tolist() == [2, 2]  # not 0, which is the only one of the list
    assert results(tmp_path / "run")["top1_acc"] == 100
