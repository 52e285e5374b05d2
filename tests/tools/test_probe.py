"""``videofib probe``: accuracies of features in files, and which files it refuses."""

import numpy as np
import pytest

from videofib.commands.features import main as extract
from videofib.commands.probe import main
from videofib.metrics.features import Features, write_features
from videofib.metrics.intervals import wilson_interval

ABOUT = {"weights": "abc", "kind": "pooled", "block": -1, "views": [1, 1]}


@pytest.fixture
def written(tmp_path):
    """``written(name, labels)``: a file of features that show the classes 3, 70 and others; None: cannot be read."""

    def write(name, labels, shift=0.0, shape=(2,), about=ABOUT, videos=None):
        corners = {3: (1.0, 0.0), 70: (0.0, 1.0), None: (np.nan, np.nan)}
        values = np.array([corners.get(label, (-1.0, -1.0)) for label in labels], np.float32) + np.float32(shift)
        values = np.resize(values, (len(labels), *shape)) if shape != (2,) else values
        errors = ["broken" if label is None else "" for label in labels]
        names = videos or [f"{name} {index}.mp4" for index in range(len(labels))]
        known = np.array([3 if label is None else label for label in labels])
        write_features(tmp_path / name, [Features(names, values, known, errors, {})], shape, about)
        return str(tmp_path / name)

    return write


def test_accuracies_with_intervals(written, capsys):
    train = written("a.npz", [3, 70, 3, None, 70, 3]), written("b.parquet", [70, 3])
    test = written("c.parquet", [3, 70, 70, 5, None, 3, 3], shift=0.1)
    main(["--train", *train, "--test", test])
    low, high = wilson_interval(5, 6)
    accuracy = f"top-1 83.33 % [{low:.2f}, {high:.2f}]"
    *lines, linear = capsys.readouterr().out.splitlines()
    assert lines == [
        "--train: 1 of 8 videos could not be read and are left out",
        "--test: 1 of 7 videos could not be read and are left out",
        "7 videos of 2 classes to learn from, 6 to test",
        "1 of these are of classes that none to learn from has, and count as wrong",
        f"nearest neighbours (k = 7): {accuracy}",
    ]
    assert linear.startswith("linear probe (L2 ")
    assert linear.endswith(f"): {accuracy}")


def test_how_many_neighbours(written, capsys):
    """Of three neighbours the majority is of the wrong class; with a high temperature they all count the same."""
    train, test = written("a.npz", [3, 70, 70]), written("b.npz", [3])
    even = ["--temperature", "100"]
    for words, right in [([], "100.00"), (even, "0.00"), ([*even, "--k", "1"], "100.00")]:
        main(["--train", train, "--test", test, *words])
        assert f": top-1 {right} % " in capsys.readouterr().out.splitlines()[1]


def test_features_of_videos(trained, experiment, tmp_path, capsys):
    """From videos to an accuracy; the colours of the clips are easy."""
    for split in ("train", "test"):
        words = ["--list", str(experiment / f"{split}.csv"), "--model", str(trained), "--views", "1", "1"]
        extract([*words, "--out", str(tmp_path / f"{split}.parquet"), "--workers", "0"])
    main(["--train", str(tmp_path / "train.parquet"), "--test", str(tmp_path / "test.parquet")])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0] == "12 videos of 3 classes to learn from, 5 to test"
    assert all(": top-1 100.00 % [56.55, 100.00]" in line for line in lines[1:])


def test_videos_in_both_are_reported(written, capsys):
    same = ["x.mp4", "\x1b[2J.mp4"]
    main(["--train", written("a.npz", [3, 70], videos=same), "--test", written("b.npz", [3, 70], videos=same)])
    assert capsys.readouterr().err == "warning: --train and --test share 2 videos: \\x1b[2J.mp4\n"


def test_files_that_cannot_be_compared(written):
    good = written("a.npz", [3, 70])
    cases = {
        "has features of other weights than the files before": written("b.npz", [3], about={**ABOUT, "weights": "x"}),
        "has features of other shape than": written("c.npz", [3], shape=(4,)),
        "--test has no videos that could be read": written("d.npz", [None, None]),
        r"--test: e.npz 1.mp4 has no label; extract": written("e.npz", [3, -1]),
        "no file of features at": good.replace("a.npz", "absent.npz"),
    }
    for message, file in cases.items():
        with pytest.raises(SystemExit, match=f"error: .*{message}") as stopped:
            main(["--train", good, "--test", file])
        assert "\n" not in str(stopped.value)
    frames = written("f.npz", [3], shape=(2, 2), about={**ABOUT, "kind": "frames"})
    with pytest.raises(SystemExit, match="error: --train has frames features; a probe takes pooled ones"):
        main(["--train", frames, "--test", frames])


@pytest.mark.parametrize("words", [["--k", "0"], ["--temperature", "0"], ["--temperature", "nan"]])
def test_options_that_cannot_be(words):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--train", "a", "--test", "b", *words])
