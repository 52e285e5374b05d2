"""Names and texts from outside, as one line that a terminal, a log and a page show as they are.

Names of files, classes, shards and columns come from people and archives that nobody here has seen. Printed raw, an
escape sequence in one moves the cursor or renames the window, and a line end makes one line of a log two.
"""

from __future__ import annotations

import os
import unicodedata


def printable(text: object) -> str:
    r"""``str(text)`` with every character escaped that does not show itself: ``a\x1b[2Jb`` for a, ESC, [2Jb.

    Control and format characters (line ends, tabs, ESC, directions of writing) and what Unicode does not assign are
    written as ``\n``, ``\t``, ``\x1b``, ``\u2028``; a byte of a file name that is not UTF-8 as ``\xff``. Letters of
    all scripts, spaces and backslashes stay as they are.
    """
    shown = os.fsdecode(text) if isinstance(text, bytes) else str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(character if _shows_itself(character) else _escaped(character) for character in shown)


def _shows_itself(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
