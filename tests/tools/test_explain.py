"""``videofib explain``: what it writes, that it needs no other file, and what it refuses in one line."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from tests.commands import call
from tests.report.browser import CHROMIUM, Browser
from videofib.commands.explain import main
from videofib.prep.encode import write_video
from videofib.run.load import load

FILES = ["explain.json", "explain.npz", "index.html", "view_1_gradcam.mp4", "view_1_gradcam.webp"]
ROLLOUT = ["view_1_rollout.mp4", "view_1_rollout.webp"]


@pytest.fixture(scope="module")
def written(trained, experiment, tmp_path_factory):
    """The folder of an explanation with everything, and what the command printed."""
    out = tmp_path_factory.mktemp("explained")
    words = [experiment / "test 1.mp4", "--model", trained, "--out", out, "--check", "--views", 2, 1]
    return out, call(main, words, check=True)


def test_files_say_what_the_model_says(written, trained, experiment):
    out, done = written
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [*FILES, *ROLLOUT, *(name.replace("1", "2") for name in [*FILES[3:], *ROLLOUT])]
    )
    expected = load(trained).explain(experiment / "test 1.mp4", views=(2, 1), check=True)
    with np.load(out / "explain.npz") as arrays:
        assert sorted(arrays) == ["frames", "gradcam", "heads", "rollout"]
        np.testing.assert_array_equal(arrays["rollout"], expected.heat["rollout"])
        np.testing.assert_array_equal(arrays["frames"], [list(view.clip.indices) for view in expected.views])
        assert arrays["heads"].shape == (2, 2, 2, 2, 2)
    about = json.loads((out / "explain.json").read_text())
    assert about["class"] == expected.explained
    assert about["probabilities"] == pytest.approx(dict(expected.top(3)))
    assert about["grid"] == {"rollout": [2, 2, 2], "gradcam": [2, 2, 2]}
    assert [view["frames"] for view in about["views"]] == [list(view.clip.indices) for view in expected.views]
    assert about["deletion_areas"] == pytest.approx(expected.areas())
    assert "area under the deletion curve, random orders" in done.stdout
    assert done.stdout.endswith(
        f"wrote {out}/index.html: rollout and gradcam of 2 views, explaining {expected.explained}\n"
    )


def test_animation_and_video_show_frames_beside_heat(written):
    out, _ = written
    with Image.open(out / "view_1_rollout.webp") as picture:
        assert picture.n_frames == 2
        assert picture.size == (2 * 224 + 4, 224)
    with av.open(str(out / "view_1_rollout.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array(frames).shape == (2, 224, 2 * 224 + 4, 3)
    assert abs(frames[0][:, :224].astype(int) - frames[0][:, 228:]).mean() > 10


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_needs_no_other_file_and_fits(written, width):
    out, _ = written
    with Browser(width=width) as browser:
        browser.open(out / "index.html")
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.run(fits)
        assert browser.run("[...document.images].every((one) => one.complete && one.naturalWidth)")
        assert browser.run(
            "new Set([...document.querySelectorAll('button.play')].map((one) => one.getAttribute('aria-label'))).size"
        ) == 2 * (3 + 2)
        assert not browser.problems
        assert {url.split(":")[0] for url in browser.requests} == {"file", "data"}


def test_hostile_names_are_text(trained, experiment, tmp_path):
    video = tmp_path / "<script>alert(1)</script>\x1b[2J.mp4".replace("/", "∕")
    video.write_bytes((experiment / "test 2.mp4").read_bytes())
    names = tmp_path / "names.txt"
    names.write_text("<b>red\ngreen'\"\n=blue\n")
    done = call(
        main, [video, "--model", trained, "--out", tmp_path / "o", "--classes", names, "--no-video"], check=True
    )
    page = (tmp_path / "o" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "\x1b" not in page + done.stdout
    assert not list((tmp_path / "o").glob("*.mp4"))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--class", "gren"], 1, "error: unknown class 'gren'; did you mean 'green'?; known: red, green, blue\n"),
        (["--block", "1"], 1, "error: patches that the last block returns have no influence on the class token"),
        (["--method", "rollout", "--block", "0"], 2, "error: --block belongs to Grad-CAM"),
        (["--method", "rollout", "--class", "red"], 2, "error: --class belongs to Grad-CAM and --check"),
        (["--views", "1", "2"], 1, "error: views must be"),
        (["--opts", "DATA.NUM_FRAMES"], 2, "error: --opts takes pairs KEY VALUE"),
    ],
)
def test_mistakes_are_one_line(trained, experiment, tmp_path, words, status, message):
    options = ["--model", trained, "--out", tmp_path / "out", *words]
    done = call(main, [experiment / "test 1.mp4", *options])
    assert done.returncode == status
    assert message in done.stderr.splitlines(keepends=True)[-1]
    assert not (tmp_path / "out").exists()


def test_an_unreadable_video_a_folder_and_a_file_for_a_folder_are_refused(trained, experiment, tmp_path):
    for video in (experiment / "broken.mp4", tmp_path, tmp_path / "absent.mp4"):
        done = call(main, [video, "--model", trained, "--out", tmp_path / "out"])
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith("error: ")
    (tmp_path / "file").touch()
    done = call(main, [experiment / "test 1.mp4", "--model", trained, "--out", tmp_path / "file"])
    assert done.returncode == 2
    assert "is not a folder" in done.stderr


def test_a_video_of_one_frame(trained, tmp_path):
    write_video(tmp_path / "one.mp4", np.full((1, 48, 64, 3), 99, np.uint8), 30)
    call(main, [tmp_path / "one.mp4", "--model", trained, "--out", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "index.html").exists()
