"""Writes ONNX files."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from videofib.files import replacing
from videofib.models.exports.program import (
    INPUT,
    OUTPUT,
    Difference,
    ExportError,
    check,
    first_line,
    plain_copy,
    trace,
)

TOLERANCE = 1e-4
METADATA = "videofib"  # the name of the entry in the file's metadata_props
_MOST_BYTES = 2**31 - (64 << 20)  # of weights: protobuf ends at 2 GiB, and the graph takes some of it


def save_onnx(model: nn.Module, path: str | Path, clip: Sequence[int], metadata: Mapping[str, object]) -> Difference:
    """Write a model as one ONNX file, completely or not at all, if onnxruntime computes the same with it.

    Its input is ``video``, (batch, C, T, H, W) float32 with any batch, its output ``logits``, (batch, K). Sparse
    attention is gathered by index, so that no tensor of the graph is N x N.

    Args:
        clip: (C, T, H, W), the only size of clips that it takes.
        metadata: plain values, which the file holds as JSON under ``videofib`` among its ``metadata_props``.

    Returns:
        How far onnxruntime's logits are from the model's.

    Raises:
        ExportError: a model that cannot be exported, one of more than 2 GB, or one with other logits in onnxruntime.
        OSError: the file cannot be written.
    """
    size = sum(tensor.numel() * 4 for tensor in (*model.parameters(), *model.buffers()))
    if size > _MOST_BYTES:
        raise ExportError(
            f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds at most 2 GB; export to pt2 or huggingface"
        )
    plain = plain_copy(model)
    program = trace(plain, clip)
    with _quiet():
        try:
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], external_data=False, verbose=False
            )
        except Exception as error:  # the exporter raises errors of many kinds
            raise ExportError(f"torch.onnx cannot export this {type(plain).__name__}: {first_line(error)}") from error
    exported.model.metadata_props[METADATA] = json.dumps(metadata)
    with replacing(path) as partial:
        exported.save(partial, external_data=False)
        return check(plain, _session(partial), clip, TOLERANCE)


def _session(path: Path):
    """The model in onnxruntime: (B, C, T, H, W) -> (B, K)."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise ExportError(f"onnxruntime cannot load the exported model: {first_line(error)}") from error

    def run(clips: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: clips.numpy()})[0])
        except Exception as error:
            raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error

    return run


@contextmanager
def _quiet():
    """Without what the exporter says about itself; what it cannot do, it raises."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
