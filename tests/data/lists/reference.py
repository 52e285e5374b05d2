"""The parser of list files as it was before they were read as columns: one line after the other, an object a video.

Slow and plain: what ``text_list.py`` reads, and every error it raises, must be what this does. Labels that an int64
cannot hold are refused since then.
"""

import re
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.extensions import VIDEO_EXTENSIONS
from videofib.data.lists.mistakes import line_hint
from videofib.data.lists.record import VideoRecord
from videofib.data.lists.text_list import SEVERAL_CLASSES_HINT


def read_list(file, *, prefix="", separator=" ", multi_label=False):
    file = Path(file)
    parse = class_indices if multi_label else class_index
    root = Path(prefix) if str(prefix) else file.parent
    records, seen = [], {}
    for number, line in lines(file):
        path, found, text = line.rpartition(separator)
        path, text = path.rstrip(), text.strip()
        hint = line_hint(line, separator, number)
        if not found or not path:
            raise ManifestError(f"{file}:{number}: expected {f'path{separator}label'!r}, got {line!r}{hint}")
        if path in seen:
            raise ManifestError(f"{file}:{number}: {path!r} is already listed on line {seen[path]}")
        seen[path] = number
        if multi_label and (separator == "," or path.endswith(",")):
            raise ManifestError(
                f"{file}:{number}: commas separate classes, so the separator between path and label "
                f"(DATA.PATH_LABEL_SEPARATOR) must be another character, and no space may follow a comma: "
                f"{path!r} {text!r}{hint}"
            )
        if (earlier := earlier_labels(path, separator)) and not (root / path).exists():
            raise ManifestError(
                f"{file}:{number}: {path!r} is not a file; if {earlier} is a label, too, separate labels by commas "
                f"without spaces ({earlier},{text}); {SEVERAL_CLASSES_HINT}{hint}"
            )
        try:
            labels = parse(text, f"{file}:{number}")
        except ManifestError as error:
            raise ManifestError(f"{error}{hint}") from None
        records.append(VideoRecord(str(root / path), labels[0], path, labels=labels if multi_label else ()))
    if not records:
        raise ManifestError(f"{file} lists no videos")
    return records


def lines(file):
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line.rstrip()


def earlier_labels(path, separator):
    if not path[-1].isdecimal():
        return ""
    words, labels = path.replace(separator, " ").split(), []
    while words and words[-1].isdecimal():
        labels.insert(0, words.pop())
    return ",".join(labels) if words and words[-1].lower().endswith(VIDEO_EXTENSIONS) else ""


def class_index(text, where):
    if not text.isdecimal():
        several = re.fullmatch(r"\d+(?:[^\d.]+\d+)+", text)
        hint = f"; separate several by commas without spaces, and {SEVERAL_CLASSES_HINT}" if several else ""
        raise ManifestError(f"{where}: label {text!r} is not a class index (0, 1, 2, ...){hint}")
    if int(text) >= 2**62:
        raise ManifestError(f"{where}: label {text!r} is too large for a class index")
    return (int(text),)


def class_indices(text, where):
    labels = tuple(class_index(part, f"{where}: of {text!r}")[0] for part in text.split(","))
    if len(set(labels)) != len(labels):
        raise ManifestError(f"{where}: {text!r} names a class twice")
    return labels
