"""Texts from outside are shown as one harmless line."""

from pathlib import Path

import pytest

from videofib.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("juggling balls.mp4", "juggling balls.mp4"),
        ("Ballspiele – schön/日本語\u3000動画.mp4", "Ballspiele – schön/日本語\u3000動画.mp4"),
        (r"C:\videos\new", r"C:\videos\new"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("one\ntwo\r\tthree\0", r"one\ntwo\r\tthree\x00"),
        ("one\u2028two\u2029\x85three", r"one\u2028two\u2029\x85three"),
        ("gpj\u202e.mp4\u200b\ufeff", r"gpj\u202e.mp4\u200b\ufeff"),
        ("\udcff\udc80.mp4", r"\xff\x80.mp4"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        (b"\xff.mp4", r"\xff.mp4"),
        (Path("a\nb"), r"a\nb"),
        (None, "None"),
    ],
)
def test_every_text_is_one_line_that_shows_itself(text, shown):
    assert printable(text) == shown
    assert len(shown.splitlines()) == 1
    shown.encode("utf-8")  # any stream takes it
    assert printable(shown) == shown  # escaped once, it stays as it is
