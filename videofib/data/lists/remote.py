"""Files behind URLs (``s3://``, ``https://``, all that fsspec has a driver for), fetched completely or in part."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videofib.data.errors import DecodeError
from videofib.data.source import ByteRange, Source


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL."""
    return "://" in str(path)


@contextmanager
def fetched(source: Source) -> Iterator[Source]:
    """A source that decoders can open: a local one itself, else a copy in memory for the duration of the block.

    Raises:
        DecodeError: it cannot be fetched.
    """
    path = source.path if isinstance(source, ByteRange) else str(source)
    if not is_remote(path):
        yield source
        return
    try:
        part = (source.start, source.start + source.size) if isinstance(source, ByteRange) else (None, None)
        content = file_system(path).cat_file(path, *part)
    except Exception as error:  # each driver has its own
        raise DecodeError(f"{source}: cannot be fetched: {one_line(error)}") from error
    if isinstance(source, ByteRange) and len(content) != source.size:
        raise DecodeError(f"{source}: the file ends early; was it replaced after it was indexed?")
    with _in_memory(content) as local:
        try:
            yield local
        except DecodeError as error:  # it names the copy
            raise DecodeError(str(error).replace(str(local), str(source))) from error


@contextmanager
def fetched_file(url: str) -> Iterator[Path]:
    """A local copy of a complete file, for the duration of the block; OSError where it cannot be fetched."""
    try:
        content = file_system(url).cat_file(url)
    except Exception as error:
        raise OSError(f"{url} cannot be fetched: {one_line(error)}") from error
    with _in_memory(content) as local:
        yield local


def exists(url: str) -> bool:
    """Whether there is a file at a URL; OSError where that cannot be found out."""
    try:
        return file_system(url).exists(url)
    except Exception as error:
        raise OSError(f"{url} cannot be looked up: {one_line(error)}") from error


def file_system(url: str):
    """fsspec's driver for a URL; each driver raises errors of its own."""
    import fsspec  # here, since it is needed for URLs only

    return fsspec.core.url_to_fs(url)[0]


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    if sys.platform != "linux":
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield Path(file.name)
        return
    file = os.memfd_create("videofib-fetched")
    try:
        with os.fdopen(os.dup(file), "wb") as stream:
            stream.write(content)
        yield Path(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def one_line(error: Exception) -> str:
    """An error of a driver in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
