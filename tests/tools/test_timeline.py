"""``videofib predict --timeline``: windows of a long video have the scores of their frames, and files show them."""

import csv
import json
import shutil
import xml.etree.ElementTree as ET

import av
import numpy as np
import pytest

from videofib.commands.predict import main
from videofib.data.video.decode import probe, read_frames
from videofib.prep.encode import write_video
from videofib.run.load import load

LENGTH, SPAN = 75, 8  # frames; NUM_FRAMES 2 x SAMPLING_RATE 4 at 30 fps


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video that is red, then green, then blue, 25 frames each."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60, (LENGTH, 48, 64, 3), dtype=np.uint8)
    for number in range(3):
        frames[25 * number : 25 * (number + 1), ..., number] += 150
    path = tmp_path_factory.mktemp("film") / "red <green> blue.mp4"
    write_video(path, frames, 30)
    return path


@pytest.fixture(scope="module")
def written(trained, film, tmp_path_factory):
    """The folder of the film's timeline."""
    out = tmp_path_factory.mktemp("timeline")
    main([str(film), "--model", str(trained), "--timeline", "--top", "3", "--out", str(out)])
    return out


def windows_of(folder):
    return json.loads((folder / "timeline.json").read_text())["windows"]


@pytest.mark.parametrize("crops", [1, 3])
def test_scores_are_those_of_predict_on_the_same_frames(trained, film, tmp_path, crops):
    words = ["--timeline", "--no-video", "--top", "3", "--views", "1", str(crops), "--out", str(tmp_path)]
    main([str(film), "--model", str(trained), *words])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["timeline.csv", "timeline.json", "timeline.svg"]
    saved, windows = load(trained), windows_of(tmp_path)
    assert len(windows) == 18
    for window in windows:
        first, end = (round(30 * window[edge]) for edge in ("start", "end"))
        assert end - first == SPAN
        frames = read_frames(str(film), list(range(first, end)))
        expected = dict(saved.predict(frames, views=(1, crops), fps=30))
        found = {row["class"]: row["probability"] for row in window["predictions"]}
        assert found == pytest.approx(expected, abs=1e-6)
    assert windows[-1]["end"] == pytest.approx(LENGTH / 30)


def test_the_files_show_the_classes_in_their_order(written):
    best = [window["predictions"][0]["class"] for window in windows_of(written)]
    assert [best[0], best[8], best[-1]] == ["red", "green", "blue"]
    with (written / "timeline.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    assert [row["class"] for row in rows] == best
    drawing = ET.parse(written / "timeline.svg").getroot()
    texts = ["".join(node.itertext()) for node in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"red", "green", "blue", "time, seconds", "%", "0", "100"} <= set(texts)
    assert "http" not in (written / "timeline.svg").read_text().replace("http://www.w3.org/2000/svg", "")
    video = probe(str(written / "timeline.mp4"))
    assert (video.num_frames, video.width, video.height, video.fps) == (LENGTH, 64, 48, 30)


def test_the_video_has_the_classes_over_its_frames(trained, tmp_path):
    write_video(tmp_path / "tall.mp4", np.full((20, 722, 402, 3), 255, np.uint8), 30)
    main([str(tmp_path / "tall.mp4"), "--model", str(trained), "--timeline", "--out", str(tmp_path / "out")])
    frames = read_frames(str(tmp_path / "out" / "timeline.mp4"), [0, 19])
    assert frames.shape == (2, 360, 200, 3)
    assert frames[:, :40, :60].min() < 120  # the ground of the text
    assert frames[:, 200:].min() > 240


def test_the_stride_is_in_seconds(trained, film, tmp_path):
    main([
        *(str(film), "--model", str(trained), "--timeline", "--no-video", "--stride", "0.2", "--out", str(tmp_path))
    ])  # fmt: skip
    starts = [window["start"] for window in windows_of(tmp_path)]
    assert starts == pytest.approx([0.2 * number for number in range(12)] + [67 / 30])


def test_a_video_shorter_than_a_clip_is_one_window(trained, tmp_path):
    write_video(tmp_path / "v.mp4", np.zeros((3, 48, 64, 3), np.uint8), 30)
    main([str(tmp_path / "v.mp4"), "--model", str(trained), "--timeline", "--out", str(tmp_path / "out")])
    (window,) = windows_of(tmp_path / "out")
    assert (window["start"], window["end"]) == (0, pytest.approx(0.1))
    whole = load(trained).predict(tmp_path / "v.mp4", views=(1, 1))
    assert window["predictions"][0]["probability"] == pytest.approx(whole[0][1], abs=1e-6)


def hurt(film, path, first, end=LENGTH):
    """Copy a video whose packets from ``first`` to ``end``, without it, are zeros, which do not decode."""
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            copy = packet
            if first <= number < end:
                copy = av.Packet(b"\0" * packet.size)
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.stream = stream
            target.mux(copy)


@pytest.mark.parametrize(("first", "seconds", "count"), [(48, 1.6, 11), (71, 2.4, 16)])
def test_a_broken_end_is_named_and_the_rest_is_answered(trained, film, tmp_path, capsys, first, seconds, count):
    hurt(film, tmp_path / "cut.mkv", first)
    main([str(tmp_path / "cut.mkv"), "--model", str(trained), "--timeline", "--out", str(tmp_path / "out")])
    assert f"cut.mkv: nothing decodes after {seconds} s of 2.5 s" in capsys.readouterr().err
    assert "nothing decodes after" in json.loads((tmp_path / "out" / "timeline.json").read_text())["error"]
    windows = windows_of(tmp_path / "out")
    assert len(windows) == count
    assert windows[-1]["end"] <= seconds


def test_the_film_continues_behind_a_break(trained, film, tmp_path, capsys):
    """Packets 28 to 31 are broken; the next keyframe is 36 (one every 12 frames), where decoding may start again."""
    hurt(film, tmp_path / "cut.mkv", 28, 32)
    out = tmp_path / "out"
    main([str(tmp_path / "cut.mkv"), "--model", str(trained), "--timeline", "--top", "3", "--out", str(out)])
    assert "cut.mkv: nothing decodes from 0.9 to 1.2 s (decoding stopped after 28 frames" in capsys.readouterr().err
    found = json.loads((out / "timeline.json").read_text())
    assert found["gaps"] == [{"start": pytest.approx(28 / 30), "end": pytest.approx(36 / 30)}]
    spans = [tuple(round(30 * window[edge]) for edge in ("start", "end")) for window in found["windows"]]
    whole = [(start, start + SPAN) for start in [*range(0, 67, 4), 67]]
    needed = {start: {start, start + 7} for start, _ in whole}  # the first and the last frame: T is 2
    assert spans == [span for span in whole if not needed[span[0]] & set(range(28, 36))]
    saved = load(trained)
    for (start, end), window in zip(spans, found["windows"], strict=True):
        expected = dict(saved.predict(read_frames(str(film), list(range(start, end))), views=(1, 1), fps=30))
        assert {row["class"]: row["probability"] for row in window["predictions"]} == pytest.approx(expected, abs=1e-6)
    with (out / "timeline.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["error"]]
    assert (row["start"], row["end"], row["class"], row["error"]) == ("0.933", "1.200", "", "does not decode")
    drawing = ET.parse(out / "timeline.svg").getroot()
    assert len(drawing.findall(".//{http://www.w3.org/2000/svg}rect[@class='gap']")) == 2  # with that of the legend
    frames = read_frames(str(out / "timeline.mp4"), list(range(LENGTH)))
    brightest = frames[:, 36:].max(axis=(1, 2, 3))  # below the caption
    assert [index for index in range(LENGTH) if brightest[index] < 60] == list(range(28, 36))


def test_a_long_video_has_fewer_frames_and_its_own_speed(trained, film, tmp_path, monkeypatch):
    monkeypatch.setattr("videofib.run.timeline_video._MOST_FRAMES", 30)
    main([str(film), "--model", str(trained), "--timeline", "--out", str(tmp_path)])
    video = probe(str(tmp_path / "timeline.mp4"))
    assert (video.num_frames, video.fps) == (25, 10)
    frames = read_frames(str(tmp_path / "timeline.mp4"), [0, 24])[:, 40:].mean(axis=(1, 2))
    assert (frames[0].argmax(), frames[1].argmax()) == (0, 2)  # red, and blue


def test_frames_that_wait_compressed_look_the_same(trained, film, written, tmp_path, monkeypatch):
    monkeypatch.setattr("videofib.run.timeline_video._MOST_PLAIN", 0)
    main([str(film), "--model", str(trained), "--timeline", "--out", str(tmp_path)])
    plain, packed = (
        read_frames(str(folder / "timeline.mp4"), list(range(LENGTH))).astype(float) for folder in (written, tmp_path)
    )
    assert np.abs(plain[:, 36:].mean(axis=(1, 2)) - packed[:, 36:].mean(axis=(1, 2))).max() < 4


def test_frames_beyond_the_memory_for_waiting_ones_are_black(trained, film, tmp_path, monkeypatch):
    monkeypatch.setattr("videofib.run.timeline_video._MOST_WAITING", 1)
    main([str(film), "--model", str(trained), "--timeline", "--out", str(tmp_path)])
    frames = read_frames(str(tmp_path / "timeline.mp4"), list(range(LENGTH)))
    assert frames[0, 36:].max() > 100
    assert frames[1, 36:].max() < 60


def test_the_last_frame_stands_for_one_that_the_container_counts_too_many(trained, film, tmp_path, capsys):
    hurt(film, tmp_path / "cut.mkv", 74)
    main([str(tmp_path / "cut.mkv"), "--model", str(trained), "--timeline", "--top", "3", "--out", str(tmp_path / "o")])
    assert capsys.readouterr().err == ""
    windows = windows_of(tmp_path / "o")
    assert len(windows) == 18
    frames = read_frames(str(tmp_path / "cut.mkv"), [*range(67, 74), 73])
    found = {row["class"]: row["probability"] for row in windows[-1]["predictions"]}
    assert found == pytest.approx(dict(load(trained).predict(frames, views=(1, 1), fps=30)), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--timeline"], "name their folder with --out"),
        (["--stride", "1"], "--stride and --no-video belong to --timeline"),
        (["--timeline", "--out", "{film}"], "is not a folder"),
        (["--timeline", "--out", "o", "--stride", "0"], "--stride must be above 0"),
        (["--timeline", "--out", "o", "--views", "2", "1"], "--views must be 1 1 or 1 3"),
        (["--timeline", "--out", "o", "--stride", "3"], "a stride of 90 frames leaves some out"),
        (["--timeline", "--out", "o", "--opts", "DATA.SAMPLING", "uniform"], "a video has no windows"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(trained, film, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([str(film), "--model", str(trained), *(word.format(film=film) for word in words)])
    assert message in str(stopped.value) + capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_only_one_video_is_taken(trained, film, tmp_path):
    with pytest.raises(SystemExit, match="--timeline takes one video, and 2 are named"):
        main([str(film), str(film), "--model", str(trained), "--timeline", "--out", str(tmp_path / "out")])


def test_a_file_that_is_not_a_video_is_one_line(trained, experiment, tmp_path):
    shutil.copy(experiment / "broken.mp4", tmp_path / "b.mp4")
    with pytest.raises(SystemExit, match=r"^error: .*b\.mp4"):
        main([str(tmp_path / "b.mp4"), "--model", str(trained), "--timeline", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
