"""Writes .pt2 files: the graph as torch.export saves it, or machine code that AOTInductor makes of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from videofib.files import replacing
from videofib.models.exports.program import Difference, ExportError, check, first_line, plain_copy, trace

TOLERANCE = 1e-5
COMPILED_TOLERANCE = 1e-4  # compiled sums are taken in another order
METADATA_FILE = "model.json"  # within the file
METADATA = "videofib"  # the name of the entry in a compiled file's metadata


def save_pt2(model: nn.Module, path: str | Path, clip: Sequence[int], metadata: Mapping[str, object]) -> Difference:
    """Write what ``torch.export.load`` reads, completely or not at all, if the loaded program computes the same.

    Its graph holds torch's own operations alone. ``program.module()`` is (B, C, T, H, W) -> (B, K) for any batch, and
    clips (C, T, H, W) of the given size.

    Args:
        clip: (C, T, H, W).
        metadata: plain values, which the file holds as JSON, its extra file ``model.json``.

    Returns:
        How far the loaded program's logits are from the model's.

    Raises:
        ExportError: a model that torch cannot trace, or one with other logits.
        OSError: the file cannot be written.
    """
    plain = plain_copy(model)
    program = trace(plain, clip)
    with _replacing_pt2(path) as named:
        content = io.BytesIO()  # since torch's own writer of files ends the process on a full disk
        torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata)})
        named.write_bytes(content.getbuffer())
        return check(plain, torch.export.load(named).module(), clip, TOLERANCE)


def save_compiled(
    model: nn.Module, path: str | Path, clip: Sequence[int], metadata: Mapping[str, object]
) -> Difference:
    """Write what ``torch._inductor.aoti_load_package`` reads: the model as machine code for this machine's CPU.

    Args, returns and raises as of ``save_pt2``; the metadata is JSON under ``videofib`` in the package's metadata.
    Compiling takes a C++ compiler, and its lack is an ExportError.
    """
    plain = plain_copy(model)
    program = trace(plain, clip)
    with _replacing_pt2(path) as named:
        options = {"aot_inductor.metadata": {METADATA: json.dumps(metadata)}}
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(named), inductor_configs=options)
        except Exception as error:  # the compilers raise errors of many kinds
            raise ExportError(
                f"AOTInductor cannot compile this {type(plain).__name__} (is there a C++ compiler?): "
                f"{first_line(error)}"
            ) from error
        return check(plain, torch._inductor.aoti_load_package(str(named)), clip, COMPILED_TOLERANCE)


@contextmanager
def _replacing_pt2(path: str | Path) -> Iterator[Path]:
    """``replacing``, with a temporary name that ends in .pt2, as torch demands."""
    folder = Path(path).parent
    with replacing(path) as partial, TemporaryDirectory(dir=folder, prefix=".", suffix=".partial") as hidden:
        named = Path(hidden) / "model.pt2"
        try:
            yield named
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        named.replace(partial)
