"""The videos that an evaluation has finished, kept on the disk, so that one that is killed resumes there.

::

    OUTPUT_DIR/test_parts/<fingerprint>/about.json            what is tested: weights, settings, videos
                                       /part-<digest>.safetensors   some finished videos of one process; any number

A part is complete or absent, and its name is the digest of its bytes, so that a damaged one is noticed. Videos that
could not be read are not cached: they are tried again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from videofib.distributed import processes
from videofib.files import remove_partial, replacing
from videofib.metrics.tasks import EvaluationError
from videofib.printable import printable

logger = logging.getLogger(__name__)

Columns = dict[str, Tensor]  # by name, each (n, ...) for n videos; among them ``indices``


class ResumeCache:
    """The finished videos of one evaluation, of this and earlier starts. Every process makes one, at the same time.

    Args:
        folder: for the parts of all evaluations into one OUTPUT_DIR; all processes must see it.
        about: what determines the scores (see ``describe``): parts of anything else are not used.
        period: seconds of work between parts: the most that a kill costs.
        num_videos: of the split; a part with other videos is not used.

    Attributes:
        earlier: what earlier starts have finished; in the main process, None in the others and where there is nothing.
        indices: the videos that earlier starts have finished; the same in every process.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, str], period: float, num_videos: int | None = None):
        self._root, self._period, self._num_videos = Path(folder), period, num_videos
        self._folder = self._root / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self._unsaved: list[Columns] = []
        self._last_save = time.monotonic()
        self.earlier = self._open(about) if processes.is_main() else None
        # one process reads the folder, before any has begun to write to it: so all skip the same videos
        self.indices: set[int] = set(processes.broadcast(self.earlier and self.earlier["indices"].tolist()) or ())

    def add(self, videos: Columns) -> None:
        """Add finished videos; every ``period`` seconds they are saved."""
        self._unsaved.append(videos)
        if time.monotonic() - self._last_save >= self._period:
            self.save()

    def save(self) -> None:
        """Write what has been added since the last time.

        Raises:
            EvaluationError: the folder cannot be written to.
        """
        if self._unsaved and len((videos := concatenate(self._unsaved))["indices"]):
            content = save(videos)
            self._write(f"part-{hashlib.sha256(content).hexdigest()}.safetensors", content)
        self._unsaved, self._last_save = [], time.monotonic()

    def remove(self) -> None:
        """Remove all parts, once the results are written; only the main process calls it."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _open(self, about: Mapping[str, str]) -> Columns | None:
        if self._root.is_dir():
            remove_partial(self._root)
            self._warn_of_other_tests(about)
        self._write("about.json", (json.dumps(about, indent=1) + "\n").encode())
        parts: list[Columns] = []
        for file in sorted(self._folder.glob("part-*.safetensors")):
            try:
                part = _read(file, self._num_videos)
                if parts and _layout(part) != _layout(parts[0]):
                    raise _UnusablePartError("it has other columns than the parts before")
                parts.append(part)
            except _UnusablePartError as error:
                logger.warning("%s is damaged; its videos are tested again (%s)", printable(file), printable(error))
        if not parts:
            return None
        found = concatenate(parts)
        rows = _first_of_each(found["indices"])
        return {name: values[rows] for name, values in found.items()}

    def _write(self, name: str, content: bytes) -> None:
        try:
            with replacing(self._folder / name) as partial:
                partial.write_bytes(content)
        except OSError as error:
            raise EvaluationError(
                f"cannot keep finished videos in {self._folder}: {error}; free some disk space, or set TEST.RESUME "
                f"False"
            ) from error

    def _warn_of_other_tests(self, about: Mapping[str, str]) -> None:
        for folder in sorted(self._root.iterdir()):
            if folder != self._folder:
                changed, file = [], folder / "about.json"
                try:
                    if file.is_file():  # opening a pipe would wait for ever
                        other = json.loads(file.read_text(encoding="utf-8"))
                        changed = [name for name in about if other.get(name) != about[name]]
                except (OSError, ValueError, AttributeError, RecursionError):
                    changed = []
                logger.warning(
                    "%s belongs to a test with other %s: it is not used, and is removed when the results are written",
                    printable(folder),
                    ", ".join(changed) or "inputs",
                )


def describe(model: nn.Module, records: Sequence, settings: Mapping[str, object]) -> dict[str, str]:
    """What determines an evaluation's scores: digests of the weights and of the list of videos, and the settings."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    videos = hashlib.sha256()
    for record in records:
        videos.update(f"{record!r}\n".encode())  # repr leaves no lone surrogates
    described = {name: json.dumps(value, sort_keys=True, default=str) for name, value in settings.items()}
    return {"weights": weights.hexdigest(), "videos": videos.hexdigest(), **described}


def concatenate(parts: Sequence[Columns]) -> Columns:
    """The rows of several parts, which have the same columns.

    Raises:
        EvaluationError: they have not.
    """
    if any(_layout(part) != _layout(parts[0]) for part in parts):
        raise EvaluationError(
            "the finished videos of an earlier start have other columns than those of this one; "
            "remove the folder test_parts in OUTPUT_DIR, to test them again"
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _first_of_each(indices: Tensor) -> list[int]:
    """The rows at which each index occurs first."""
    return list({index: row for row, index in reversed(list(enumerate(indices.tolist())))}.values())


class _UnusablePartError(ValueError):
    """A part whose videos are tested again; the message says why."""


def _read(file: Path, num_videos: int | None) -> Columns:
    """A part of some of ``num_videos`` videos.

    Raises:
        _UnusablePartError: its bytes are not those that were written, or are not those of finished videos.
    """
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            raise _UnusablePartError("it is not a regular file")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != file.stem.removeprefix("part-"):
            raise _UnusablePartError("its bytes are not those that were written")
        part = load(content)
    except OSError as error:
        raise _UnusablePartError(error.strerror or "it cannot be read") from error
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that torch lacks
        raise _UnusablePartError(str(error)) from error
    indices = part.get("indices")
    if indices is None or indices.dtype != torch.int64 or indices.ndim != 1:
        raise _UnusablePartError("it has no indices of videos")
    if any(values.shape[:1] != indices.shape for values in part.values()):
        raise _UnusablePartError("its columns have other lengths")
    if len(indices) and (indices.min() < 0 or (num_videos is not None and indices.max() >= num_videos)):
        raise _UnusablePartError(f"it has videos {int(indices.min())} to {int(indices.max())} of {num_videos}")
    if "scores" in part and not part["scores"].isfinite().all():
        raise _UnusablePartError("it has scores that are not finite")
    return part


def _layout(part: Columns) -> dict[str, tuple]:
    """The type and the shape of a row of each column."""
    return {name: (values.dtype, values.shape[1:]) for name, values in part.items()}
