"""Files that are whole or absent: the one way in which videofib writes what must survive a crash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; once the block ends well, flush it to the disk and rename it to ``path``.

    After a power cut or ``kill -9`` the folder holds the old file or the new one, never half of it; what may be left
    is a hidden ``*.partial``. Where the block raises, the temporary file is removed.

    Raises:
        OSError: it cannot be written; ``filename`` is the path, not the temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")  # short, since path's own name may be as long as allowed
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename in (str(partial), partial, None):  # None: of an open file
            # a new one: PyAV's errors cannot be changed, and one of a library's own words would lose them to the name
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too, is on the disk
    finally:
        os.close(folder)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name: a hard link where the file system allows one, else a copy, whole or absent."""
    source, target = Path(source).resolve(), Path(target)  # resolved: a link to a symbolic link may lead nowhere
    target.unlink(missing_ok=True)  # renaming one name of a file to another name of the same file does nothing
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without links, or somebody else's file
            shutil.copyfile(source, partial)


def remove_partial(folder: str | Path) -> None:
    """Remove what writers that were killed have left below a folder."""
    for partial in list(Path(folder).rglob(".*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def is_there(path: str | Path) -> bool:
    """Whether a file or folder exists, also of a name that comes from anywhere: one that is too long does not."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def sha256(file: str | Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with Path(file).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def to_utf8(text: str) -> str:
    r"""Text that UTF-8 can hold: a byte that is not becomes ``\xe9``, and a backslash two of them.

    Names of files need not be UTF-8; such bytes come as ``os.fsdecode`` gives them, as lone surrogates.

    Raises:
        UnicodeEncodeError: other lone surrogates, which no name of a file has.
    """
    if text.isascii() and "\\" not in text:
        return text  # as nearly all of a million are
    return text.replace("\\", r"\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_utf8(text: str) -> str:
    """What ``to_utf8`` was given."""
    if "\\" not in text:
        return text
    raw = re.sub(
        rb"\\(?:\\|x([0-9a-f]{2}))",
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"\\",
        text.encode(),
    )
    return raw.decode("utf-8", "surrogateescape")


def spreadsheet_text(text: str) -> str:
    """Text from outside as a cell of a csv file: never a formula.

    A spreadsheet runs what begins with one of ``= + - @``, a tab or a carriage return, so that a file's name could send
    the sheet elsewhere; an apostrophe in front makes it text (OWASP, CSV injection).
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def describe(error: OSError) -> str:
    """An error of the system for a message: ``data/out/train.csv: No space left on device``."""
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{file}{error.strerror or error}"
