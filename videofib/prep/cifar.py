"""CIFAR-10 and CIFAR-100 from their official *binary* versions: https://www.cs.toronto.edu/~kriz/cifar.html

A file of pictures is one record after another; a picture has 32 x 32 pixels, all red ones row by row, then all green
and all blue ones::

    CIFAR-10    label                     3072 bytes of pixels    data_batch_1.bin ... data_batch_5.bin, test_batch.bin
    CIFAR-100   coarse label, fine label  3072 bytes of pixels    train.bin, test.bin

The versions for Python are pickles, which run whatever they hold when they are loaded. They are not opened.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from videofib.classes import ClassesError, check_names
from videofib.prep.items import Item, PrepareError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_MOST_BYTES = 256 << 20  # of an archive without its compression; the official ones have 185 million
_MOST_NAMES = 1 << 16  # bytes of a file of names


@dataclass(frozen=True)
class _Version:
    """One of the two data sets: its archive, its files, and which byte of a record is the label."""

    archive: str
    train: Sequence[str]
    test: str
    names: str
    classes: int
    label: int  # position of the label in a record, and the last one before the pixels

    @property
    def record(self) -> int:
        return self.label + 1 + _PIXELS

    @property
    def files(self) -> Sequence[str]:
        return (*self.train, self.test, self.names)


_TEN = _Version(
    "cifar-10-binary.tar.gz", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", "batches.meta.txt", 10, 0
)
_HUNDRED = _Version("cifar-100-binary.tar.gz", ["train.bin"], "test.bin", "fine_label_names.txt", 100, 1)
OFFICIAL = {"train": 50_000, "test": 10_000}
# folders and files of the versions that are pickles -> the archive to take instead
_PICKLES = {
    **dict.fromkeys(("cifar-10-batches-py", "data_batch_1", "batches.meta"), _TEN.archive),
    **dict.fromkeys(("cifar-100-python", "train", "meta"), _HUNDRED.archive),
}


class Cifar(NamedTuple):
    """Items with their pixels, of splits train and test, the names of the classes, and notes for the report."""

    items: list[Item]
    classes: list[str]
    notes: dict[str, list[str]]


def is_cifar(path: Path) -> bool:
    """Whether a path is to be read as CIFAR: an archive, or a folder that was unpacked from one, of any version."""
    if not path.is_dir():
        return True
    names = {entry.name for entry in path.iterdir() if entry.is_file()}
    return (
        any(set(version.train) <= names for version in (_TEN, _HUNDRED))
        or names >= {"data_batch_1", "batches.meta"}
        or (names >= {"train", "meta"})
    )


def read_cifar(path: Path) -> Cifar:
    """All pictures of an archive or of the folder unpacked from it, in the order of its files.

    Raises:
        PrepareError: it is another version, none of CIFAR, damaged or incomplete, or larger than the official ones.
    """
    contents = _folder(path) if path.is_dir() else _archive(path)
    version = next((version for version in (_TEN, _HUNDRED) if version.train[0] in contents), None)
    if version is None:
        raise PrepareError(f"{path} is no binary version of CIFAR ({_TEN.archive}, {_HUNDRED.archive})")
    if absent := [name for name in version.files if name not in contents]:
        raise PrepareError(f"{path} lacks {', '.join(absent)}; is it complete?")
    classes = _names(path, version, contents[version.names])
    items: list[Item] = []
    counts: dict[str, int] = {}
    for split, files in (("train", version.train), ("test", [version.test])):
        for file in files:
            labels, pictures = _records(path, file, version, contents.pop(file))
            first, source = counts.get(split, 0), path / file if path.is_dir() else path
            counts[split] = first + len(labels)
            items += [
                Item(f"{split}_{number:05d}.png", int(label), (split,), source, raw=picture)
                for number, (label, picture) in enumerate(zip(labels, pictures, strict=True), start=first)
            ]
    unlike = [
        f"{split}: {counts[split]}, officially {count}" for split, count in OFFICIAL.items() if counts[split] != count
    ]
    return Cifar(items, classes, {"counts_unlike_the_official": unlike})


def _records(path: Path, file: str, version: _Version, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,), and pictures (N, 32, 32, 3) uint8 RGB."""
    if not content or len(content) % version.record:
        raise PrepareError(f"{path}: {file} has {len(content)} bytes, which are not pictures of {version.record} each")
    records = np.frombuffer(content, np.uint8).reshape(-1, version.record)
    labels, pixels = records[:, version.label], records[:, version.label + 1 :]
    if labels.max() >= version.classes:
        number = int(np.argmax(labels >= version.classes))
        raise PrepareError(f"{path}: {file}: picture {number} has label {labels[number]} of {version.classes} classes")
    return labels, pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)


def _names(path: Path, version: _Version, content: bytes) -> list[str]:
    names = [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(names) != version.classes:
        raise PrepareError(f"{path}: {version.names} names {len(names)} classes, not {version.classes}")
    try:
        return check_names(names)
    except ClassesError as error:
        raise PrepareError(f"{path}: the classes in {version.names} {error}") from error


def _refuse_pickles(path: Path, name: str) -> None:
    for part in name.split("/"):
        if part in _PICKLES:
            raise PrepareError(
                f"{path} is the version for Python, whose pickles can run any code and are not opened; take the binary "
                f"version, {_PICKLES[part]}, from the same page"
            )


def _folder(path: Path) -> dict[str, bytes]:
    contents = {}
    for entry in sorted(path.iterdir()):
        _refuse_pickles(path, entry.name)
        if entry.is_file() and entry.name in (*_TEN.files, *_HUNDRED.files):
            if entry.stat().st_size > _MOST_BYTES:
                raise PrepareError(f"{entry} is larger than a file of CIFAR")
            contents[entry.name] = entry.read_bytes()
    return contents


def _archive(path: Path) -> dict[str, bytes]:
    """The files of an archive, by their names without folders; nothing is written, whatever these names say."""
    contents: dict[str, bytes] = {}
    if not path.is_file():  # opening a pipe would wait for ever
        raise PrepareError(f"{path} is not a file")
    try:
        for name, content in _members(path):
            if name in contents:
                raise PrepareError(f"{path} has {name} twice")
            contents[name] = content
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PrepareError(f"{path} cannot be read as a .tar.gz archive ({error}); is it complete?") from error
    return contents


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    wanted = (*_TEN.files, *_HUNDRED.files)
    with gzip.open(path) as stream:
        unpacked = _Bounded(path, stream)
        with tarfile.open(fileobj=cast("Any", unpacked), mode="r|") as tar:
            for member in tar:
                _refuse_pickles(path, member.name)
                name = member.name.rpartition("/")[2]
                if name in wanted and member.isreg():
                    if name.endswith(".txt") and member.size > _MOST_NAMES:
                        raise PrepareError(f"{path}: {name} is too large for names of classes")
                    yield name, cast("Any", tar.extractfile(member)).read()
        while unpacked.read(1 << 20):  # the checksum of all stands at the end
            pass


class _Bounded:
    """A stream that ends with an error where a small archive unpacks to more than any of CIFAR has."""

    def __init__(self, path: Path, stream: gzip.GzipFile):
        self._path, self._stream, self._left = path, stream, _MOST_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise PrepareError(f"{self._path} unpacks to more than {_MOST_BYTES:,} bytes, which CIFAR does not have")
        return content
