"""A run's folder from a stranger: the report contacts no host, and shows nothing but videos of the run's data set."""

import base64
import io
import os
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from videofib.commands.report import main as report
from videofib.data.errors import DecodeError
from videofib.data.video.decode import estimate
from videofib.metrics.scores import Scores, write_scores
from videofib.prep.encode import write_video
from videofib.report.video_folders import NotShownError, VideoFolders

SECRET = "the secret words of this machine"
RED, GREEN = (220, 20, 20), (20, 220, 20)


@contextmanager
def listening():
    """A port of this machine, and the addresses that have connected to it."""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        done = threading.Event()

        def accept():
            while not done.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                seen.append(address)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], seen
        finally:
            done.set()
            thread.join()


def video(file, colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    write_video(file, np.full((8, 48, 64, 3), colour, np.uint8), 25)
    return file


def hostile(folder, paths, config=""):
    """A run's folder whose mistakes are these paths, the first one the most confident."""
    folder.mkdir()
    count = len(paths)
    values = torch.zeros(count, 2)
    values[:, 1] = 1 - torch.arange(count) / (2 * count)
    values[:, 0] = 1 - values[:, 1]
    names = [str(number) for number in range(count)]
    labels = torch.zeros(count, dtype=torch.int64)
    found = Scores(names, [*map(str, paths)], labels, values, torch.zeros(count), {}, 1, class_names=["a", "b"])
    write_scores(folder / "test_scores.parquet", found)
    (folder / "test_results.json").write_text("{}")
    claim = f", PATH_TO_DATA_DIR: '{config}'" if config else ""
    (folder / "config.yaml").write_text(f"DATA: {{TEST_CROP_SIZE: 32{claim}}}\nTIMESFORMER: {{SIZE: tiny, DEPTH: 1}}\n")
    return folder


def page_of(folder, *options):
    report([str(folder), "--videos", "50", *map(str, options)])
    return (folder / "report.html").read_text()


def colours(page):
    """The mean colours of the page's pictures, rounded to which of red and green they have."""
    parts = page.split("data:image/jpeg;base64,")[1:]
    pictures = [Image.open(io.BytesIO(base64.b64decode(part.split('"')[0]))).convert("RGB") for part in parts]
    return ["red" if np.asarray(picture)[..., 0].mean() > 128 else "green" for picture in pictures]


@pytest.fixture
def data(tmp_path):
    """A data set with one green video; a private, red one lies beside it, and links lead there."""
    folder = tmp_path / "data"
    video(folder / "own.mp4", GREEN)
    video(tmp_path / "private" / "secret.mp4", RED)
    (tmp_path / "private" / "secret.txt").write_text(SECRET)
    (folder / "link.mp4").symlink_to(tmp_path / "private" / "secret.mp4")
    (folder / "linked").symlink_to(tmp_path / "private")
    (folder / "test.csv").write_text("own.mp4,0\n")
    (folder / "notes.mp4").write_text(SECRET)
    return folder


def test_no_host_is_contacted_and_nothing_outside_of_the_data_set_is_shown(data, tmp_path):
    private = tmp_path / "private"
    with listening() as (port, seen):
        paths = [
            *(f"{scheme}://127.0.0.1:{port}/a.mp4" for scheme in ("http", "https", "ftp", "rtmp", "tcp", "s3", "HTTP")),
            f"http://127.0.0.1:{port}/a.tar[0:512]",
            f"file://{private}/secret.mp4",
            f"file:{private}/secret.mp4",
            f"concat:{private}/secret.mp4",
            f"subfile,,start,0,end,0,,:{private}/secret.mp4",
            f"local://{private}/secret.mp4",
            f"simplecache::http://127.0.0.1:{port}/a.mp4",
            private / "secret.mp4",
            private / "secret.txt",
            f"{private}/secret.mp4[0:900]",
            f"{data}/../private/secret.mp4",
            data / "link.mp4",
            data / "linked" / "secret.mp4",
            "/etc/passwd",
            "/dev/zero",
            "/proc/self/environ",
            "a\0b.mp4",
            "x" * 5000,
            data / "notes.mp4",
            data,
            data / "own.mp4",
        ]
        page = page_of(hostile(tmp_path / "run", paths, str(data)))
        for number, claimed in enumerate((f"http://127.0.0.1:{port}", "/", str(private), str(tmp_path), "~", "..")):
            other = page_of(hostile(tmp_path / f"run{number}", paths, claimed))
            assert not colours(other)
        assert not seen
    assert colours(page) == ["green"]
    assert SECRET not in page
    assert base64.b64encode(SECRET.encode()).decode()[:30] not in page
    assert "--data FOLDER allows what is below it" in page
    assert page.count("No frames: ") == len(paths) - 1


def test_folders_that_the_caller_names_are_read(data, tmp_path):
    folder = hostile(tmp_path / "run", [tmp_path / "private" / "secret.mp4", data / "own.mp4"])
    assert colours(page_of(folder)) == []
    assert colours(page_of(folder, "--data", data, tmp_path / "private")) == ["red", "green"]


def test_a_url_is_followed_below_one_that_the_caller_names():
    folders = VideoFolders(["s3://bucket/data"], "http://host")
    folders.check("s3://bucket/data/a.mp4")
    for url in ("s3://bucket/database/a.mp4", "s3://bucket/data/../b.mp4", "http://host/a.mp4"):
        with pytest.raises(NotShownError, match="--data URL allows"):
            folders.check(url)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "test_results.json", "stats.jsonl"])
def test_links_out_of_the_folder_are_not_followed(data, tmp_path, name):
    folder = hostile(tmp_path / "run", [data / "own.mp4"])
    (tmp_path / "own.json").write_text(f'{{"cpu": "{SECRET}", "checkpoint": "{SECRET}"}}')
    (folder / name).unlink(missing_ok=True)
    if name == "test_results.json":
        (folder / "stats.jsonl").write_text('{"_type": "train_epoch", "epoch": 1}\n')
    (folder / name).symlink_to(tmp_path / "own.json")
    page = page_of(folder)
    assert SECRET not in page
    assert f"{name}: a link that leads out of the folder is not followed" in page


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
@pytest.mark.timeout(30)
def test_lists_of_other_files_are_refused_before_these_are_opened(tmp_path, text):

    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)  # opening it would wait for ever
    (tmp_path / "a.mp4").write_text(text.format(pipe))
    (tmp_path / "a.m3u8").write_text(text.format(Path(pipe).name))
    for name in ("a.mp4", "a.m3u8"):
        with pytest.raises(DecodeError, match=rf"{name}: cannot be opened as video"):
            estimate(tmp_path / name)


def test_frames_of_folders_are_shown_by_the_pattern_and_no_link_leads_out(data, tmp_path):
    for name in ("frames", "linked_frames", "../private/frames"):
        (data / name).mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (64, 48), GREEN).save(data / f"frames/img_{number}.png")
        Image.new("RGB", (64, 48), RED).save(data / f"frames/flow_{number}.png")
        Image.new("RGB", (64, 48), RED).save(tmp_path / f"private/frames/img_{number}.png")
    Image.new("RGB", (64, 48), GREEN).save(data / "linked_frames/img_1.png")
    (data / "linked_frames/img_2.png").symlink_to(tmp_path / "private/frames/img_2.png")
    paths = [data / "frames", data / "linked_frames", tmp_path / "private/frames"]
    folder = hostile(tmp_path / "run", paths, config=data)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("DATA: {", "DATA: {FRAME_PATTERN: img_%d.png, "))
    page = page_of(folder)
    assert colours(page) == ["green"]
    assert page.count("lies outside of the run") == 2
    assert 'data-indices="0 1 2"' in page  # each frame once
