"""The journal of a preparation: what is in it is used, what cannot be used is work to do again, nothing is lost."""

import json
import re
import shutil
import subprocess
import sys
import zlib

import pytest

from tests.prep.test_prepare import folder_of_classes, run_folder, tree
from videofib.prep.journal import Journal
from videofib.prep.transcode import Transcoded

FACTS = Transcoded(20, 25.0, 0.8, 72, 64, "h264", 0, False, False, True, 1234, "0f" * 32, "0f" * 8, "", 0)
PATH = "videos/one/a.mp4"


def test_entries_come_back_also_after_the_process_was_killed(tmp_path):
    """kill -9 in the middle of the work, long before anything is forced to the disk."""
    program = f"""
import os, signal
from pathlib import Path
from videofib.prep.journal import Journal
from videofib.prep.transcode import Transcoded
with Journal(Path("journal.jsonl"), [str(i) for i in range(100)]) as journal:
    for i in range(100):
        journal.add(f"videos/{{i}}", {{"size": i}}, {FACTS!r} if i % 2 else "cannot be read")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == -9
    journal = Journal(tmp_path / "journal.jsonl", ["videos/1"])
    assert journal.problem == ""
    found = [journal.find(f"videos/{i}", {"size": i}) for i in range(100)]
    assert found == ["cannot be read", FACTS] * 50
    assert journal.find("videos/1", {"size": 2}) is None


def test_a_journal_without_news_is_not_written(tmp_path):
    file = tmp_path / "journal.jsonl"
    for _ in range(2):
        with Journal(file, [PATH]) as journal:
            if not journal.find(PATH, {}):
                journal.add(PATH, {}, FACTS)
        written = file.stat()
    assert written.st_mtime_ns == file.stat().st_mtime_ns
    inode = written.st_ino
    with Journal(file, [PATH]):
        pass
    assert file.stat().st_ino == inode


def line(entry):
    """A line whose checksum is right, whatever it says."""
    text = (entry if isinstance(entry, str) else json.dumps(entry)).encode()
    return b'{"crc32": "%08x", %s\n' % (zlib.crc32(text), text[1:])


def changed(**facts):
    return line({"path": PATH, "fingerprint": {}, "facts": {**vars(FACTS), **facts}})


GOOD = changed()
BAD = {
    "cut short": GOOD[: len(GOOD) // 2],
    "binary": bytes(range(256)) * 40,
    "empty": b"\n\n",
    "of an earlier version": GOOD.replace(GOOD[:23], b"{"),
    "a bit": GOOD.replace(b'"size": 1234', b'"size": 1235'),
    "not an object": line("[1, 2, 3]"),
    "deep": line('{"path": ' + "[" * 100_000),
    "deep and closed": line('{"path": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "long": line({"path": PATH, "fingerprint": {"x": "y" * (2 << 20)}, "facts": vars(FACTS)}),
    "many digits": line('{"path": "videos/a", "fingerprint": {}, "facts": ' + "9" * 5000 + "}"),
    "a path out of the folder": line({"path": "../a.mp4", "fingerprint": {}, "corrupt": ""}),
    "a path up": line({"path": "videos/../../a.mp4", "fingerprint": {}, "corrupt": ""}),
    "an absolute path": line({"path": "/etc/passwd", "fingerprint": {}, "corrupt": ""}),
    "a NUL byte": line({"path": "videos/a\0", "fingerprint": {}, "corrupt": ""}),
    "a path that is a number": line({"path": 3, "fingerprint": {}, "corrupt": ""}),
    "a path that is a list": line({"path": [], "fingerprint": {}, "corrupt": ""}),
    "no fingerprint": line({"path": PATH, "facts": vars(FACTS)}),
    "no result": line({"path": PATH, "fingerprint": {}}),
    "two results": line({"path": PATH, "fingerprint": {}, "facts": vars(FACTS), "corrupt": "x"}),
    "a reason that is no text": line({"path": PATH, "fingerprint": {}, "corrupt": {}}),
    "facts that are none": line({"path": PATH, "fingerprint": {}, "facts": [1]}),
    "a fact less": line({"path": PATH, "fingerprint": {}, "facts": {"size": 3}}),
    "a fact more": changed(later=3),
    "text for a number": changed(size="1234"),
    "null": changed(size=None),
    "a truth value for a number": changed(size=True),
    "a number for a truth value": changed(random_access=1),
    "nan": changed(fps=float("nan")),
    "inf": changed(duration=float("inf")),
    "below zero": changed(num_frames=-1),
    "10^30": changed(size=10**30),
    "10^400 for a float": changed(fps=10**400),
    "a fraction for a count": changed(width=0.5),
    "an angle": changed(rotation=45),
    "a digest": changed(sha256="0f"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_entry_that_cannot_be_used_is_not_and_is_reported_in_one_line(name, tmp_path):
    file = tmp_path / "journal.jsonl"
    other = line({"path": "videos/b.mp4", "fingerprint": {}, "facts": vars(FACTS)})
    file.write_bytes(other + BAD[name].rstrip(b"\n") + b"\n")
    journal = Journal(file, [PATH])
    assert journal.find(PATH, {}) is None
    assert journal.find("videos/b.mp4", {}) == FACTS
    assert journal.outdated() == ["videos/b.mp4"]
    assert re.match(
        rf"{file}: \d+ entries cannot be used \(line 2: .*\); their videos are prepared again$", journal.problem
    )
    assert journal.problem.isprintable()
    assert len(journal.problem) < 500
    with journal:
        journal.add(PATH, {}, FACTS)
    again = Journal(file, [PATH])
    assert (again.problem, again.find(PATH, {})) == ("", FACTS)


def test_the_last_of_two_entries_counts(tmp_path):
    (tmp_path / "j").write_bytes(changed(size=1) + changed(size=2))
    assert Journal(tmp_path / "j", [PATH]).find(PATH, {}).size == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binary", "of an earlier version", "deep and closed", "10^30", "a path up"])
def test_the_same_command_repairs_a_damaged_journal(name, tmp_path, caplog):
    """The other entries are used, what is outside stays, and all files end with the same bytes."""
    root, out = folder_of_classes(tmp_path / "raw", 1), tmp_path / "out"
    run_folder(root, out)
    intact, journal = tree(out), out / "journal.jsonl"
    outside = tmp_path / "a.mp4"
    outside.write_text("not ours")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + BAD[name].rstrip(b"\n") + b"\n" + lines[2])
    before = {path: path.stat().st_ino for path in out.rglob("*.mp4")}
    run_folder(root, out)
    assert tree(out) == intact
    assert outside.read_text() == "not ours"
    assert sum(path.stat().st_ino != inode for path, inode in before.items()) == 1  # only this one is made again
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "their videos are prepared again" in caplog.text


@pytest.mark.slow
def test_an_entry_of_another_file_is_not_taken_for_it(tmp_path):
    root, out = folder_of_classes(tmp_path / "raw", 1), tmp_path / "out"
    run_folder(root, out)
    intact, journal = tree(out), out / "journal.jsonl"
    entries = [json.loads(text) for text in journal.read_text().splitlines()]
    paths = [entry["path"] for entry in entries]
    for entry, path in zip(entries, paths[1:] + paths[:1], strict=True):
        entry["path"] = path
        del entry["crc32"]
    journal.write_bytes(b"".join(map(line, entries)))
    run_folder(root, out)
    assert tree(out) == intact


@pytest.mark.slow
def test_an_outdated_entry_that_is_a_folder_or_leads_elsewhere_by_a_link_removes_nothing(tmp_path):
    root, out = folder_of_classes(tmp_path / "raw", 1), tmp_path / "out"
    run_folder(root, out)
    intact = tree(out)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.mp4").write_text("not ours")
    (out / "videos/link").symlink_to(tmp_path / "elsewhere")
    with (out / "journal.jsonl").open("ab") as stream:
        for path in ("videos/one", "videos/link/a.mp4", "videos/" + "x" * 5000):
            stream.write(line({"path": path, "fingerprint": {}, "facts": vars(FACTS)}))
    run_folder(root, out)
    (out / "videos/link").unlink()
    assert tree(out) == intact
    assert (tmp_path / "elsewhere/a.mp4").read_text() == "not ours"
    shutil.rmtree(out)
