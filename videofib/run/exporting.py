"""Exports a saved model, and compares what was written with the model before it is there under its name."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.files import is_there
from videofib.metrics.tasks import MULTI_LABEL
from videofib.models import TimeSformer
from videofib.models.exports.program import INPUT, OUTPUT, Difference, ExportError
from videofib.printable import printable
from videofib.run.export_formats import EXPORT_FORMATS
from videofib.run.parts import TASKS
from videofib.run.save import describe_saved, save

if TYPE_CHECKING:
    from videofib.run.saved_model import SavedModel

CHANNELS = 3


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        size: bytes.
        difference: of its logits from the model's.
    """

    path: Path
    size: int
    difference: Difference


def export(saved: SavedModel, to: str, out: str | Path) -> Exported:
    """Write the model in one of ``EXPORT_FORMATS``, completely or not at all, if what was written computes the same.

    A file is replaced; a folder that holds anything is not.

    Raises:
        ExportError: a path, or a model, that this format does not take, a package that it needs, or other logits.
        CheckpointError, OSError: it cannot be written.
    """
    check_output(to, out)
    path, clip = Path(out), clip_shape(saved)
    if to == "huggingface":
        difference = _folder(saved, path)
    else:
        writer = _writer(to)
        difference = writer(saved.model, path, clip, describe_export(saved))
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Exported(path, sum(file.stat().st_size for file in files), difference)


def check_output(to: str, out: str | Path) -> None:
    """Raise ExportError where a package is not installed, or the output cannot be of such a name; before any work."""
    form, path = EXPORT_FORMATS[to], Path(out)
    missing = [name for name in form.packages if find_spec(name) is None]
    if missing:
        raise ExportError(f"--to {to} needs {', '.join(missing)}: pip install 'videofib[export]'")
    if form.suffix and (path.suffix != form.suffix or path.is_dir()):
        raise ExportError(f"--to {to} writes a file that ends in {form.suffix}, got {printable(out)}")
    if not form.suffix and is_there(path) and not (path.is_dir() and not any(path.iterdir())):
        raise ExportError(f"{printable(out)} is there; name a new folder, or remove it")


def clip_shape(saved: SavedModel) -> tuple[int, int, int, int]:
    """(C, T, H, W) of the clips that its tests give the model."""
    given = saved.cfg.DATA
    return CHANNELS, given.NUM_FRAMES, given.TEST_CROP_SIZE, given.TEST_CROP_SIZE


def describe_export(saved: SavedModel) -> dict[str, object]:
    """What using the exported model takes, beside the file: classes, input, output, and where it comes from."""
    several = TASKS[saved.cfg.MODEL.LOSS_FUNC] is MULTI_LABEL
    shape = ", ".join(map(str, clip_shape(saved)))
    return {
        **describe_saved(saved),
        "tensors": {
            INPUT: f"float32 (batch, {shape}): RGB frames / 255, minus mean, by std; see input",
            OUTPUT: f"float32 (batch, {len(saved.classes)}), one for each of classes",
        },
        "scores": f"{'sigmoid' if several else 'softmax'} of the logits of each clip, then the mean over clips",
    }


def _writer(to: str) -> Callable[..., Difference]:
    if to == "onnx":
        from videofib.models.exports.onnx_file import save_onnx

        return save_onnx
    from videofib.models.exports.pt2_file import save_compiled, save_pt2

    return save_compiled if to == "aoti" else save_pt2


def _folder(saved: SavedModel, path: Path) -> Difference:
    if not isinstance(saved.model, TimeSformer):
        raise ExportError(
            f"transformers has no code for a {saved.cfg.MODEL.MODEL_NAME}, and videofib writes some for TimeSformers "
            "only; export to onnx or pt2"
        )
    from videofib.models.exports.transformers_folder import check_folder

    hidden = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        save(saved, hidden)
        difference = check_folder(saved.model, hidden, clip_shape(saved))
        if path.is_dir():
            path.rmdir()  # empty, as check_output has seen
        hidden.replace(path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return difference
