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
from safetensors.torch import load_file, save
from torch import Tensor, nn

from videofib.distributed import processes
from videofib.files import remove_partial, replacing
from videofib.metrics.tasks import EvaluationError

logger = logging.getLogger(__name__)

Columns = dict[str, Tensor]  # by name, each (n, ...) for n videos; among them ``indices``


class ResumeCache:
    """The finished videos of one evaluation, of this and earlier starts. Every process makes one, at the same time.

    Args:
        folder: for the parts of all evaluations into one OUTPUT_DIR; all processes must see it.
        about: what determines the scores (see ``describe``): parts of anything else are not used.
        period: seconds of work between parts: the most that a kill costs.

    Attributes:
        earlier: what earlier starts have finished; in the main process, None in the others and where there is nothing.
        indices: the videos that earlier starts have finished; the same in every process.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, str], period: float):
        self._root, self._period = Path(folder), period
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
        parts = [part for file in sorted(self._folder.glob("part-*.safetensors")) if (part := _read(file))]
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
                try:
                    other = json.loads((folder / "about.json").read_text(encoding="utf-8"))
                    changed = [name for name in about if other.get(name) != about[name]]
                except (OSError, ValueError, AttributeError):
                    changed = []
                logger.warning(
                    "%s belongs to a test with other %s: it is not used, and is removed when the results are written",
                    folder,
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
    """The rows of several parts, which have the same columns."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _first_of_each(indices: Tensor) -> list[int]:
    """The rows at which each index occurs first."""
    return list({index: row for row, index in reversed(list(enumerate(indices.tolist())))}.values())


def _read(file: Path) -> Columns | None:
    """A part; None, and a warning, where its bytes are not those that were written."""
    if hashlib.sha256(file.read_bytes()).hexdigest() != file.stem.removeprefix("part-"):
        logger.warning("%s is damaged; its videos are tested again", file)
        return None
    return load_file(file)
