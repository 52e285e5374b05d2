"""What is probably wrong with a list whose lines or paths cannot be used, as the end of a message: ``"; set ..."``."""

from __future__ import annotations

import re

# a path, what separates it from its label, and the label, perhaps in quotes
_LINE = re.compile(r"""(?P<path>.*[^\s,;|])(?P<between>\s*[,;|\t]\s*|\s+)(?P<label>(["']?)\d+\4)""", re.DOTALL)
_ENDS = re.compile(r"[,;|\s]")  # of what may be a label
_SEVERAL = re.compile(r"[\d,;|]+")  # labels before the last one
_QUOTED = re.compile(r"""(["']).*\1""", re.DOTALL)
_HEADER = re.compile(r"(class|label|target|category)(es|s|[_ ]?(id|idx|index|name))?", re.IGNORECASE)
_FILE_NAME = re.compile(r".*\.(?=\w*[^\W\d])\w{2,5}", re.DOTALL)  # with an extension that is no number
_MAX_LINE = 8192  # characters of a line that is looked at; a path has at most 4096
_REMOVE_QUOTES = "quotes are taken for a part of what they enclose: remove them"


def line_hint(line: str, separator: str, number: int) -> str:
    """Why a line has no path or no class index; empty where nothing is known.

    Args:
        separator: what DATA.PATH_LABEL_SEPARATOR is.
        number: of the line, counted from 1.
    """
    line = line.strip()
    if len(line) > _MAX_LINE:
        return ""
    found = _LINE.fullmatch(line)
    if not found:
        label = _ENDS.split(line)[-1].strip("\"'")
        if number == 1 and _HEADER.fullmatch(label):
            return "; is this line a header? call its columns path and label, or remove it"
        return "; is the label missing, or before the path?" if _FILE_NAME.fullmatch(label) else ""
    if _SEVERAL.fullmatch(found["path"].split()[-1]):
        return ""  # several labels, of which the message speaks
    hints = []
    between = found["between"].strip(" ")[:1] or " "
    if between not in (separator, separator.strip(" ")):
        hints.append(
            f"here {between!r} seems to separate path and label, and DATA.PATH_LABEL_SEPARATOR is {separator!r}; set "
            f"it to what separates them in all lists of the run"
        )
    if _QUOTED.fullmatch(found["path"]) or _QUOTED.fullmatch(found["label"]):
        hints.append(_REMOVE_QUOTES)
    return "".join(f"; {hint}" for hint in hints)


def path_hint(path: str) -> str:
    """Why the path of a line, as written, may be that of no file; empty where nothing is known."""
    if _QUOTED.fullmatch(path):
        return f"; {_REMOVE_QUOTES}"
    if re.search(r"\s\d+$", path[-_MAX_LINE:]):
        return "; if the number before the label is that of the frames in a folder, set DATA.FRAME_COUNTS True"
    if path[-1:] in (",", ";", "|", "\t"):
        return f"; it ends with {path[-1]!r}: if that separates path and label, set DATA.PATH_LABEL_SEPARATOR to it"
    if "\\" in path:
        return "; it has backslashes, which separate no folders here: write / instead"
    return ""
