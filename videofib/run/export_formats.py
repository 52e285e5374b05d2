"""What ``videofib export`` writes; without the imports that writing takes, so that the command line can list it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportFormat:
    """One form of an exported model.

    Attributes:
        what: it is, for people.
        suffix: of the file; "": a folder.
        packages: that writing and checking it takes, beside torch; of the extra ``export``.
    """

    what: str
    suffix: str
    packages: tuple[str, ...] = ()


EXPORT_FORMATS = {
    "onnx": ExportFormat("an ONNX file", ".onnx", ("onnx", "onnxscript", "onnxruntime")),
    "pt2": ExportFormat("a program for torch.export.load", ".pt2"),
    "aoti": ExportFormat("machine code for this machine's CPU", ".pt2"),
    "huggingface": ExportFormat("a folder for transformers", "", ("transformers",)),
}
