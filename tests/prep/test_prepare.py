"""Preparation: nothing is lost, half-written or skipped silently, whatever happens."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.lists.manifest import read_list, read_manifest
from videofib.data.lists.splits import load_split
from videofib.data.video.decode import probe, random_access_is_right, read_frames
from videofib.prep.encode import write_video
from videofib.prep.items import Item, PrepareError, output_paths
from videofib.prep.prepare import prepare
from videofib.prep.sets import folder
from videofib.prep.transcode import PROOF_OF_COPIES, Encoding, target_size

SCRIPT = Path(__file__).parents[2] / "data_prep/folder.py"


def write_clip(path, seed=0, count=20, width=128, height=112):
    """A real video of drifting texture."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(0, 256, (40, 40, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (texture[t % 100 :, t % 80 :][:height, :width] for t in range(count)), 25)


def folder_of_classes(root, clips_per_class=2, **size):
    for label in ("one", "two", "three"):
        for number in range(clips_per_class):
            write_clip(root / label / f"{label} {number}.mp4", seed=number, **size)
    return root


def run_folder(root, out, *extra, **options):
    items, classes, notes = folder.read_root(root, **options)
    return prepare(items, classes, out, videos=root, encoding=Encoding(*extra), jobs=1, notes=notes)


def command(root, out, jobs=2):
    return [sys.executable, str(SCRIPT), "--videos", str(root), "--out", str(out), "--jobs", str(jobs)]


def tree(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_prepared_videos_are_small_seekable_and_listed(tmp_path):
    root = folder_of_classes(tmp_path / "raw")
    report = run_folder(root, tmp_path / "out", 64, val_fraction=0.5)
    assert report["splits"] == {"train": 3, "val": 3, "test": 3}
    assert (tmp_path / "out/classes.txt").read_text() == "one\nthree\ntwo\n"
    for split in ("train", "val", "test"):
        records = load_split(tmp_path / "out", split)
        assert [record.label for record in records] == [0, 1, 2]
        for record in records:
            info = probe(record.path)
            assert (info.width, info.height, info.num_frames, info.fps) == (72, 64, 20, 25)
            assert (record.num_frames, record.fps, record.random_access) == (20, 25, True)
            assert random_access_is_right(record.path)
    for row in read_manifest(tmp_path / "out/manifest.parquet"):
        written = (tmp_path / "out" / row.path).read_bytes()
        assert (row.status, row.rotation, row.sha256) == ("ok", 0, hashlib.sha256(written).hexdigest())


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((320, 240), 256, (320, 240)),  # never up
        ((340, 256), 128, (170, 128)),
        ((256, 340), 128, (128, 170)),
        ((319, 241), 256, (318, 240)),  # even
        ((1920, 1080), 256, (454, 256)),
        ((1, 1), 256, (2, 2)),
        ((640, 16), 8, (320, 8)),
        ((321, 241), 0, (320, 240)),
    ],
)
def test_target_size(size, short_side, expected):
    assert target_size(*size, short_side) == expected


def test_copies_have_the_same_bytes_and_the_manifest_states_their_facts(shared_data, tmp_path):
    """h264 in avi, whose seeking is wrong; a rotated file; one that breaks midway; text."""
    root = tmp_path / "raw"
    root.mkdir()
    names = ["misseek/h264_in_avi_v_Lunges_g02_c01.avi", "rotated_90.mp4", "bitflips_mdat.mp4"]
    names = [shared_data / "hostile" / name for name in names]
    (root / "text.mp4").write_text("no video")
    items = [Item(f"c/{path.name}", 0, ("train",), path) for path in names]
    items.append(Item("c/text.mp4", 0, ("train",), root / "text.mp4"))
    out = tmp_path / "out"
    report = prepare(items, ["c"], out, videos=root, encoding=Encoding(codec="copy"), jobs=1)
    assert report["encoding"] == {"codec": "copy"}
    rows = read_manifest(out / "manifest.parquet")
    for row, source in zip(rows[:3], names, strict=True):
        assert row.path == f"videos/c/{source.name}"
        assert (out / row.path).read_bytes() == source.read_bytes()
        info = probe(source)
        assert (row.num_frames, row.codec, row.rotation) == (info.num_frames, info.codec, info.rotation)
        assert row.reason == info.damaged
    assert [row.random_access for row in rows] == [random_access_is_right(path) for path in names] + [False]
    assert [row.status for row in rows] == ["ok", "ok", "damaged", "corrupt"]
    assert not (out / rows[3].path).exists()
    before = tree(out)
    prepare(items, ["c"], out, videos=root, encoding=Encoding(codec="copy"), jobs=1)
    assert tree(out) == before
    (out / "journal.jsonl").unlink()  # all are made again, over another name of the same file
    prepare(items, ["c"], out, videos=root, encoding=Encoding(codec="copy"), jobs=1)
    assert tree(out) == before
    prepare(items, ["c"], out, videos=root, encoding=Encoding(64), jobs=1)
    assert {path.suffix for path in (out / "videos").rglob("*.*")} == {".mp4"}  # of other options nothing is left
    assert all(path.stat().st_nlink == 1 for path in (out / "videos").rglob("*.mp4"))


def test_copies_that_an_earlier_proof_has_passed_are_proved_again(tmp_path, monkeypatch):
    root, out = folder_of_classes(tmp_path / "raw", clips_per_class=1), tmp_path / "out"
    items, classes, _ = folder.read_root(root)

    def proved(codec):
        """How many videos a run looks at."""
        calls = []

        def counting(function, work, jobs):
            calls.extend(work)
            return ((index, function(call)) for index, call in enumerate(work))

        prepare(items, classes, out, videos=root, encoding=Encoding(codec=codec), jobs=1, engine=counting)
        return len(calls)

    assert [proved("copy"), proved("copy")] == [3, 0]
    monkeypatch.setattr("videofib.prep.prepare.PROOF_OF_COPIES", PROOF_OF_COPIES + 1)
    assert [proved("copy"), proved("copy")] == [3, 0]
    assert [proved("h264"), proved("h264")] == [3, 0]
    monkeypatch.undo()
    assert proved("h264") == 0  # what is encoded here does not depend on it


def test_copies_are_hard_links_where_there_can_be_some(tmp_path):
    write_clip(tmp_path / "raw/a/x.mp4")
    (tmp_path / "raw/a/y.mp4").symlink_to("x.mp4")
    words = ["folder", "--videos", tmp_path / "raw", "--out", tmp_path / "out", "--jobs", "2", "--codec", "copy"]
    call(main, words, check=True)
    for name in "xy":
        copy = tmp_path / f"out/videos/a/{name}.mp4"
        assert os.path.samefile(copy, tmp_path / "raw/a/x.mp4")  # noqa: PTH121
        assert not copy.is_symlink()
    for options in (["--short-side", "64"], ["--fps", "5"], ["--gop", "5"]):
        result = call(main, [*words, *options])
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert f"{options[0]} cannot be used with --codec copy" in result.stderr


def test_missing_corrupt_and_damaged_are_named_and_the_rest_is_prepared(tmp_path):
    root = tmp_path / "raw"
    write_clip(root / "a/good.mp4")
    (root / "a/text.mp4").write_text("no video")
    (root / "a/notes.txt").write_text("not listed")
    write_clip(root / "a/cut.mp4", count=60)
    intact = (root / "a/cut.mp4").read_bytes()
    moov = intact.index(b"moov") - 4
    broken = bytearray(intact)
    broken[moov // 2 : moov - 8] = bytes(moov - 8 - moov // 2)
    (root / "a/cut.mp4").write_bytes(broken)
    (root / "a/dangling.mp4").symlink_to(root / "nowhere.mp4")
    items, classes, notes = folder.read_root(root)
    items.append(Item("a/gone.mp4", 0, ("train",), None))
    report = prepare(items, classes, tmp_path / "out", videos=root, encoding=Encoding(), jobs=2, notes=notes)

    assert report["missing"] == ["a/gone.mp4"]
    assert [line.split(":")[0] for line in report["corrupt"]] == ["a/dangling.mp4", "a/text.mp4"]
    assert [line.split(":")[0] for line in report["damaged"]] == ["a/cut.mp4"]
    assert report["ignored"] == ["a/notes.txt"]
    rows = {Path(row.path).stem: row for row in read_manifest(tmp_path / "out/manifest.parquet")}
    assert {stem: row.status for stem, row in rows.items()} == {
        "good": "ok", "cut": "damaged", "gone": "missing", "text": "corrupt", "dangling": "corrupt",
    }  # fmt: skip
    assert 10 < rows["cut"].num_frames < 60
    assert "stopped after" in rows["cut"].reason
    assert [record.video_id for record in read_list(tmp_path / "out/train.csv")] == [
        "videos/a/cut.mp4",
        "videos/a/good.mp4",
    ]


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_undisturbed_run(tmp_path):
    root = folder_of_classes(tmp_path / "raw", clips_per_class=4, count=40)
    subprocess.run(command(root, tmp_path / "calm"), check=True, capture_output=True)
    out, journal = tmp_path / "killed", tmp_path / "killed/journal.jsonl"
    first_files = None
    for lines in (2, 5, 8):
        process = subprocess.Popen(command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not journal.exists() or journal.read_text().count("\n") < lines):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (out / "train.csv").exists()  # lists come last
        done = [json.loads(line)["path"] for line in journal.read_text().splitlines()]
        first_files = first_files or {path: (out / path).stat().st_mtime_ns for path in done[:2]}
    with journal.open("a") as stream:
        stream.write('{"path": "videos/one/one 0.mp4", "finger')  # a line cut short
    time.sleep(1)  # the killed run's processes finish what they hold
    result = subprocess.run(command(root, out), check=True, capture_output=True, text=True)
    assert "12 of 12 listed videos" in result.stdout
    assert tree(out) == tree(tmp_path / "calm")
    assert {path: (out / path).stat().st_mtime_ns for path in first_files} == first_files  # not done again


def test_a_run_without_work_changes_nothing_and_a_changed_source_or_size_is_done_again(tmp_path):
    root = folder_of_classes(tmp_path / "raw")
    run_folder(root, tmp_path / "out")
    before = tree(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/videos").rglob("*.mp4")}
    run_folder(root, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times

    write_clip(root / "one/one 0.mp4", seed=9, count=33)
    run_folder(root, tmp_path / "out")
    changed = {path for path, time_ns in times.items() if path.stat().st_mtime_ns != time_ns}
    assert {path.name for path in changed} == {"one 0.mp4"}
    assert probe(tmp_path / "out/videos/one/one 0.mp4").num_frames == 33

    run_folder(root, tmp_path / "out", 64)
    assert all(probe(path).height == 64 for path in times)

    (tmp_path / "out/videos/two/two 0.mp4").write_bytes(b"cut")  # an output that was tampered with
    (root / "one/one 1.mp4").write_text("now broken")
    report = run_folder(root, tmp_path / "out", 64)
    assert probe(tmp_path / "out/videos/two/two 0.mp4").height == 64
    assert [line.split(":")[0] for line in report["corrupt"]] == ["one/one 1.mp4"]
    assert not (tmp_path / "out/videos/one/one 1.mp4").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker through /proc, which only Linux has")
def test_a_dying_worker_costs_one_video_and_the_next_run_prepares_it(tmp_path):
    root = folder_of_classes(tmp_path / "raw", clips_per_class=1)
    write_clip(root / "one/a long.mp4", count=600, width=200, height=200)
    out = tmp_path / "out"
    process = subprocess.Popen(command(root, out, jobs=1), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None and not list(out.glob("videos/one/.*.partial")):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 1
    os.kill(int(workers[0]), signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == 0
    assert "one/a long.mp4: its process died (signal SIGKILL)" in printed
    assert "3 of 4 listed videos" in printed
    assert not list(out.rglob(".*.partial"))

    repaired = subprocess.run(command(root, out), check=True, capture_output=True, text=True).stdout
    assert "4 of 4 listed videos" in repaired


def test_ctrl_c_ends_in_one_line_and_the_run_resumes_later(tmp_path):
    root = folder_of_classes(tmp_path / "raw", clips_per_class=6, count=150)
    process = subprocess.Popen(
        command(root, tmp_path / "out"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while process.poll() is None and not list((tmp_path / "out").glob("videos/*/*.mp4")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command resumes" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["../../x.mp4", "/etc/x.mp4", "a/../../x.mp4", "a/..", "a/", "a\0b.mp4"])
def test_listed_names_that_lead_out_are_refused(tmp_path, name):
    item = Item(name, 0, ("train",), tmp_path / "x.mp4")
    with pytest.raises(PrepareError, match="refused"):
        prepare([item], ["a"], tmp_path / "out", videos=tmp_path / "raw", encoding=Encoding(), jobs=1)
    assert not (tmp_path / "out").exists()


def test_sources_of_one_stem_both_survive(tmp_path):
    root = tmp_path / "raw"
    write_clip(root / "c/a.mp4", count=10)
    write_clip(root / "c/b.mp4", count=14)
    (root / "c/b.mp4").rename(root / "c/a.mov")
    run_folder(root, tmp_path / "out")
    counts = [record.num_frames for record in read_list(tmp_path / "out/train.csv")]
    assert sorted(counts) == [10, 14]


def test_the_sources_are_never_overwritten(tmp_path):
    root = folder_of_classes(tmp_path / "set/videos", clips_per_class=1)
    before = tree(root)
    for out in (tmp_path / "set", root):
        with pytest.raises(PrepareError, match="choose another --out"):
            run_folder(root, out)
    assert tree(tmp_path / "set/videos") == before


def test_nothing_readable_and_nothing_found_are_errors(tmp_path):
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "raw/a/x.mp4").write_text("no video")
    with pytest.raises(PrepareError, match="not one of 1 videos could be read"):
        run_folder(tmp_path / "raw", tmp_path / "out")
    assert json.loads((tmp_path / "out/report.json").read_text())["corrupt"]
    items = [Item("a/x.mp4", 0, ("train",), None)]
    with pytest.raises(PrepareError, match="right --videos"):
        prepare(items, ["a"], tmp_path / "out2", videos=tmp_path, encoding=Encoding(), jobs=1)


def test_two_runs_at_once_are_refused(tmp_path):
    from fcntl import LOCK_EX, flock

    root = folder_of_classes(tmp_path / "raw", clips_per_class=1)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        with pytest.raises(PrepareError, match="another preparation"):
            run_folder(root, tmp_path / "out")


def test_every_hostile_file_is_prepared_or_named(shared_data, tmp_path):
    """No crash, no hang, no frame of a readable file lost, and each is the picture that it was, upright."""
    root = tmp_path / "raw"
    root.mkdir()
    (root / "hostile").symlink_to(shared_data / "hostile")
    (root / "misseek").symlink_to(shared_data / "hostile/misseek")
    result = subprocess.run(command(root, tmp_path / "out"), check=True, capture_output=True, text=True, timeout=300)
    report = json.loads((tmp_path / "out/report.json").read_text())
    rows = {Path(row.source).name: row for row in read_manifest(tmp_path / "out/manifest.parquet")}

    readable, files = {}, set()
    for line in (shared_data / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        path, _, _, frames, *_ = line.split("\t")
        if path.startswith("hostile/"):
            files.add(Path(path).name)
            if frames:  # misseek's are not counted there
                readable[Path(path).name] = int(frames)
    assert len(readable) > 50
    shown_longer = {"native_var_fps_video.mp4": 301}  # at even times a frame of it comes twice
    assert {name: rows[name].num_frames for name in readable} == readable | shown_longer
    assert files - set(rows) == {"audio_only.wav", "directory.mp4"}  # no video's name, and an empty folder
    assert "hostile/audio_only.wav" in report["ignored"]
    for name in readable:
        source, output = shared_data / "hostile" / name, tmp_path / "out" / rows[name].path
        before = read_frames(source if source.exists() else source.parent / "misseek" / name, [0, readable[name] - 1])
        if before.shape[1:3] == (rows[name].height, rows[name].width):  # not of an odd size, which loses a line
            after = read_frames(output, [0, readable[name] - 1])
            assert np.abs(before.mean(-1) - after.mean(-1)).mean() < 7, name  # a dithered gif has 6, others up to 2
            assert np.abs(before.mean((1, 2)) - after.mean((1, 2))).max() < 4, name  # colours are not shifted
    unreadable = {name for name, row in rows.items() if row.status == "corrupt"}
    assert not unreadable & set(readable)
    assert {line.split(":")[0] for line in report["corrupt"]} == {f"hostile/{name}" for name in unreadable}
    assert "bitflips_mdat.mp4" in str(report["damaged"])
    assert f"corrupt: {len(unreadable)}" in result.stdout


def test_names_that_are_not_utf8_are_prepared_listed_and_read(tmp_path):
    name = os.fsdecode(b"caf\xe9/\xff\xfe.mp4")
    write_video(tmp_path / "raw" / name, np.zeros((6, 32, 32, 3), np.uint8), 25)
    write_video(tmp_path / "raw/run/a.mp4", np.zeros((6, 32, 32, 3), np.uint8), 25)
    result = call(main, ["folder", "--videos", tmp_path / "raw", "--out", tmp_path / "out", "--jobs", 1])
    assert result.returncode == 0, result.stderr
    record, _ = read_list(tmp_path / "out/train.csv")
    assert (record.video_id, record.random_access) == (f"videos/{name}", False)  # not proven, and not corrupt
    assert read_manifest(tmp_path / "out/manifest.parquet")[0].status == "ok"
    for backend in ("auto", "pyav", "decord"):
        assert read_frames(record.path, [0, 5], backend=backend).shape == (2, 32, 32, 3)
    assert call(main, ["verify", tmp_path / "out"]).returncode == 0


def test_classes_that_look_the_same_are_refused(tmp_path):
    items = [Item("a/x.mp4", 0, ("train",), None), Item("b/x.mp4", 1, ("train",), None)]
    with pytest.raises(PrepareError, match=r"the classes have the name .* twice"):
        output_paths(items, ["caf\u00e9", "cafe\u0301"])
