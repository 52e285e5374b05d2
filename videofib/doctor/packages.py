"""Which packages are installed, in which versions, and whether the needed ones can be imported."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from importlib import metadata

from videofib import __version__
from videofib.doctor.finding import Finding, State, reason, unavailable

NEEDED = ("torch", "timm", "numpy", "av", "numba")  # torch first: see data.video.decord_reader
OPTIONAL = {  # name of the distribution -> what it is for
    "decord2": "reading by DATA.DECODING_BACKEND decord, and proofs of preparation",
    "triton": "the backend of attention on GPUs",
    "torchcodec": "reading by DATA.DECODING_BACKEND torchcodec",
    "aiohttp": "videos behind URLs",
    "ray": "preparing on a cluster",
    "submitit": "videofib submit",
    "tensorboard": "figures in TensorBoard",
    "wandb": "figures in Weights & Biases",
    "mlflow-skinny": "figures in MLflow",
    "transformers": "models of Hugging Face",
    "onnx": "videofib export --to onnx",
    "onnxscript": "videofib export --to onnx",
    "onnxruntime": "videofib export --to onnx, and running what it writes",
}


def packages() -> Iterator[Finding]:
    """videofib, Python, the packages that it needs, which are imported, and others, which are not."""
    yield Finding(State.KNOWN, "videofib", __version__)
    yield Finding(State.KNOWN, "Python", platform.python_version())
    for name in NEEDED:
        yield needed(name)
    for name, purpose in OPTIONAL.items():
        version = version_of(name)
        state = State.KNOWN if version else State.MISSING
        yield Finding(state, f"package {name}", version or f"not installed; for {purpose}")


def needed(name: str) -> Finding:
    """A package without which videofib does not work, imported."""
    part = f"package {name}"
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a library that does not load raises anything
        return unavailable(part, f"cannot be imported ({reason(error)}); pip install videofib", needed=True)
    text = version_of(name) or getattr(module, "__version__", "version unknown")
    if name == "av":
        text += f", FFmpeg {getattr(module, 'ffmpeg_version_info', 'unknown')}"
    return Finding(State.WORKS, part, text)


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
