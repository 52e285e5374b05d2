"""What an evaluation has finished so far, on the disk: one that is killed goes on where it was.

::

    OUTPUT_DIR/test_parts/<fingerprint>/about.json            what is tested: weights, settings, videos
                                       /part-<digest>.safetensors   some finished videos of one process; any number

A part is whole or absent, and named after its own bytes, so that a damaged one is noticed. Videos that could not be
read are in none: they are tried again.
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


class FinishedVideos:
    """The finished videos of one evaluation, of this and earlier starts; every process makes one, at the same time.

    Args:
        folder: for the parts of all evaluations into one OUTPUT_DIR; all processes must see it.
        about: what decides the scores (see ``describe``): parts of anything else are not used.
        period: seconds of work between parts: what a kill costs at most.

    Attributes:
        earlier: what earlier starts have finished; in the main process, None elsewhere and where there is nothing.
        indices: the videos that earlier starts have finished; the same in every process.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, str], period: float):
        self._all, self._period = Path(folder), period
        self._folder = self._all / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self._waiting: list[Columns] = []
        self._last = time.monotonic()
        self.earlier = self._open(about) if processes.is_main() else None
        # one process has looked, before any has begun to write: so all skip the same videos
        self.indices: set[int] = set(processes.broadcast(self.earlier and self.earlier["indices"].tolist()) or ())

    def add(self, videos: Columns) -> None:
        """Remember finished videos; now and then they are put on the disk."""
        self._waiting.append(videos)
        if time.monotonic() - self._last >= self._period:
            self.save()

    def save(self) -> None:
        """Put on the disk what has been added since the last time.

        Raises:
            EvaluationError: it cannot be written there.
        """
        if self._waiting and len((videos := together(self._waiting))["indices"]):
            content = save(videos)
            self._write(f"part-{hashlib.sha256(content).hexdigest()}.safetensors", content)
        self._waiting, self._last = [], time.monotonic()

    def remove(self) -> None:
        """Remove all parts, once the results are written; in the main process alone."""
        shutil.rmtree(self._all, ignore_errors=True)

    def _open(self, about: Mapping[str, str]) -> Columns | None:
        if self._all.is_dir():
            remove_partial(self._all)
            self._tell_strangers(about)
        self._write("about.json", (json.dumps(about, indent=1) + "\n").encode())
        parts = [part for file in sorted(self._folder.glob("part-*.safetensors")) if (part := _read(file))]
        if not parts:
            return None
        found = together(parts)
        kept = _first_of_each(found["indices"])
        return {name: values[kept] for name, values in found.items()}

    def _write(self, name: str, content: bytes) -> None:
        try:
            with replacing(self._folder / name) as partial:
                partial.write_bytes(content)
        except OSError as error:
            raise EvaluationError(
                f"cannot keep finished videos in {self._folder}: {error}; make room, or set TEST.RESUME False"
            ) from error

    def _tell_strangers(self, about: Mapping[str, str]) -> None:
        for folder in sorted(self._all.iterdir()):
            if folder != self._folder:
                try:
                    other = json.loads((folder / "about.json").read_text(encoding="utf-8"))
                    changed = [name for name in about if other.get(name) != about[name]]
                except (OSError, ValueError, AttributeError):
                    changed = []
                what = ", ".join(changed) or "unknown things"
                logger.warning("%s is of a test of other %s; it is not used, and goes with the results", folder, what)


class Growing:
    """Columns that grow with every batch, kept in few pieces.

    The small tensors of many batches lie between larger ones that come and go, and hold their memory: 20 times what is
    in them was seen.
    """

    def __init__(self, batches_a_piece: int = 100):
        self._size = batches_a_piece
        self._pieces: list[Columns] = []
        self._batches: list[Columns] = []

    def add(self, videos: Columns) -> None:
        """Add the videos of a batch, or of many."""
        self._batches.append(videos)
        if len(self._batches) == self._size:
            self._pieces.append(together(self._batches))
            self._batches = []

    def all(self) -> Columns | None:
        """What has been added, in that order; None where that is nothing."""
        parts = self._pieces + self._batches
        return together(parts) if parts else None


def describe(model: nn.Module, records: Sequence, settings: Mapping[str, object]) -> dict[str, str]:
    """What decides an evaluation's scores: digests of weights and videos (as their list has them), and the settings."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    videos = hashlib.sha256()
    for record in records:
        videos.update(f"{record!r}\n".encode())  # repr leaves no lone surrogates
    described = {name: json.dumps(value, sort_keys=True, default=str) for name, value in settings.items()}
    return {"weights": weights.hexdigest(), "videos": videos.hexdigest(), **described}


def together(parts: Sequence[Columns]) -> Columns:
    """The videos of several parts."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _first_of_each(indices: Tensor) -> list[int]:
    """The places at which each index comes first."""
    return list({index: place for place, index in reversed(list(enumerate(indices.tolist())))}.values())


def _read(file: Path) -> Columns | None:
    """A part; None where it is not what was written."""
    if hashlib.sha256(file.read_bytes()).hexdigest() != file.stem.removeprefix("part-"):
        logger.warning("%s is damaged; its videos are tested again", file)
        return None
    return load_file(file)
