"""The log that a run prints and writes."""

import json
import logging
import math
import time
from datetime import datetime, timedelta, timezone

import pytest

from videofib.tracking.log import close_logging, log_stats, log_unreadable, setup_logging


@pytest.fixture(autouse=True)
def _handlers_end_with_the_test():
    yield
    close_logging()


def test_figures_are_one_json_line_on_stdout_and_in_the_file(tmp_path, capsys):
    setup_logging(tmp_path)
    log_stats({"_type": "train_iter", "loss": 1.23456789, "grad_norm": math.inf, "epoch": 3})
    expected = {"_type": "train_iter", "loss": 1.23457, "grad_norm": None, "epoch": 3}
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line.removeprefix("json_stats: ")) == expected
    assert json.loads((tmp_path / "stats.jsonl").read_text()) == expected


def test_messages_go_to_the_log_but_not_to_the_figures(tmp_path, capsys):
    setup_logging(tmp_path)
    logging.getLogger("videofib.run.main").info("resuming")
    logging.getLogger("videofib.run.main").error("no such file")
    out, err = capsys.readouterr()
    assert out == "resuming\n"
    assert err == "no such file\n"
    log = (tmp_path / "log.txt").read_text()
    assert "INFO resuming" in log
    assert "ERROR no such file" in log
    assert (tmp_path / "stats.jsonl").read_text() == ""


def test_times_are_utc_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        setup_logging(tmp_path)
        logging.getLogger("videofib").info("now")
    finally:
        monkeypatch.undo()
        time.tzset()
    written, zone = (tmp_path / "log.txt").read_text().split(" INFO")[0].rsplit(" ", 1)
    moment = datetime.fromisoformat(written).replace(tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - moment) < timedelta(minutes=1)
    assert zone == "UTC"


def test_setting_up_twice_logs_once(tmp_path, capsys):
    setup_logging(tmp_path)
    setup_logging(tmp_path)
    log_stats({"loss": 1.0})
    assert capsys.readouterr().out.count("json_stats") == 1
    assert len((tmp_path / "stats.jsonl").read_text().splitlines()) == 1


def test_other_ranks_only_warn(tmp_path, capsys):
    setup_logging(tmp_path / "unused", rank=2)
    logging.getLogger("videofib").info("chatter")
    logging.getLogger("videofib").warning("trouble")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "rank 2: trouble\n"
    assert not (tmp_path / "unused").exists()


def test_undecodable_file_names_are_escaped(tmp_path, capsys):
    setup_logging(tmp_path)
    logging.getLogger("videofib").warning("unreadable: %s", "caf\udce9.mp4")
    assert "caf\\xe9.mp4" in capsys.readouterr().out
    assert "caf\\xe9.mp4" in (tmp_path / "log.txt").read_text()


def test_names_cannot_forge_lines_or_move_the_cursor(tmp_path, capsys):
    setup_logging(tmp_path)
    forged = "a\x1b[2J\njson_stats: {}\u2028\r.mp4"
    logging.getLogger("videofib").warning("two\nlines: %s, %d of %s", forged, 3, ValueError(forged))
    shown = "a\\x1b[2J\\njson_stats: {}\\u2028\\r.mp4"
    expected = f"two\nlines: {shown}, 3 of {shown}\n"
    assert capsys.readouterr().out == expected
    assert (tmp_path / "log.txt").read_text().endswith(f"WARNING {expected}")


def test_what_has_a_value_for_each_class_goes_to_a_file_and_not_to_the_console(tmp_path, capsys):
    setup_logging(tmp_path)
    log_stats({"_type": "train_epoch", "loss": 1.0})
    assert not (tmp_path / "details.jsonl").exists()
    by_class = {f"class {label}": 50.0 for label in range(400)}
    figures = {"_type": "val_epoch", "top1_acc": 50.0, "top1_acc_interval": [45.0, 55.0], "per_class_acc": by_class}
    log_stats({**figures, "skipped": []})
    *_, line = capsys.readouterr().out.splitlines()
    short = {key: value for key, value in figures.items() if key != "per_class_acc"}
    assert json.loads(line.removeprefix("json_stats: ")) == short
    assert json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1]) == short
    assert json.loads((tmp_path / "details.jsonl").read_text()) == {**figures, "skipped": []}


def test_unreadable_videos_are_one_line_and_a_file(tmp_path, capsys):
    setup_logging(tmp_path)
    log_unreadable("test", "left out", {"b.mp4": "cut\noff", "a%s.mp4": "empty"}, "unreadable_test.txt")
    file = tmp_path / "unreadable_test.txt"
    assert capsys.readouterr().out == (
        f"test: 2 unreadable videos were left out: a%s.mp4 (empty), and 1 more; all are listed in {file}\n"
    )
    assert file.read_text() == "a%s.mp4: empty\nb.mp4: cut\\noff\n"
    log_unreadable("test", "left out", {"c.mp4": "empty"}, "unreadable_test.txt")
    assert capsys.readouterr().out == f"test: 1 unreadable video was left out: c.mp4 (empty); see {file}\n"
    assert file.read_text() == "c.mp4: empty\n"
