"""Read checkpoints of other projects, which hold objects of their own classes beside the weights, and run none of it.

A checkpoint of torch is a pickle and the bytes of its tensors. A pickle names the classes and functions that make its
objects; here no module is imported and nothing that a file names is called. Tensors, numbers, texts and containers are
made by functions of this module. Each object of any other class becomes a :class:`Standin`: a dict that is empty or
holds the entries of the object, where it was a dict (such as a CfgNode of fvcore or yacs).
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6: pickles in a row, then the tensors' bytes
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# Nothing that a file names is called in any case; one that names these was made to attack, and is refused as a whole.
_PROGRAMS = re.compile(
    r"(os|posix|nt|sys|subprocess|runpy|importlib|ctypes)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|compile|open|__import__)"
)


class ForeignError(ValueError):
    """A file that cannot be read; the message says why, without its name."""


class Standin(dict):
    """Takes the place of an object of a class that is not made, and holds the entries of one that was a dict."""

    stands_for = "an object"

    def __new__(cls, *args: Any, **kwargs: Any) -> Standin:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Leave out the object's attributes."""

    def append(self, item: Any) -> None:
        """Leave out an item of what was a list or a set."""

    extend = add = append
    __hash__ = object.__hash__  # type: ignore[assignment]  # objects may be keys
    __eq__ = object.__eq__


def read_foreign(path: Path) -> tuple[Any, list[str]]:
    """What ``torch.save`` wrote, onto the CPU, and the names of the classes in whose place something else stands.

    Raises:
        ForeignError: the file is damaged, names functions that run programs, or is of a kind that is not read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        with path.open("rb") as file:
            return _read_legacy(file, path.stat().st_size)
    except ForeignError:
        raise
    except Exception as error:  # damaged files fail in as many ways as there are bytes
        raise ForeignError(f"is damaged or not a checkpoint: {type(error).__name__}") from error


def _read_archive(archive: zipfile.ZipFile) -> tuple[Any, list[str]]:
    names = set(archive.namelist())
    root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise ForeignError("is a TorchScript program, not a checkpoint; save its state_dict() alone")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise ForeignError("was written on a machine with another order of bytes")
    storages: dict[str, Tensor] = {}

    def load_storage(key: str, size: int) -> Tensor:
        if key not in storages:
            content = archive.read(f"{root}data/{key}")  # which compares the checksum
            storages[key] = _bytes_tensor(content)
        return storages[key]

    with archive.open(f"{root}data.pkl") as file:
        unpickler = _Unpickler(file, load_storage)
        return unpickler.load(), sorted(unpickler.left_out)


def _read_legacy(file: BinaryIO, size_of_file: int) -> tuple[Any, list[str]]:
    storages: dict[str, Tensor] = {}

    def allocate(key: str, size: int) -> Tensor:
        if key not in storages:
            if not 0 <= size <= size_of_file:
                raise ForeignError("is damaged: a tensor is larger than the file")
            storages[key] = torch.empty(size, dtype=torch.uint8)
        return storages[key]

    def load() -> Any:
        return _Unpickler(file, allocate).load()

    if load() != _LEGACY_MAGIC:
        raise ForeignError("is a pickle that torch.save did not write")
    load(), load()  # the version of the format, and the sizes of C's integers
    unpickler = _Unpickler(file, allocate)
    content, keys = unpickler.load(), load()
    for key in keys:
        storage = storages[str(key)]
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count < 0 or storage.numel() % max(count, 1):
            raise ForeignError("is damaged: a tensor has another size than its bytes")
        storage.copy_(_bytes_tensor(_exactly(file, storage.numel())))
    return content, sorted(unpickler.left_out)


def _exactly(file: BinaryIO, size: int) -> bytes:
    if len(content := file.read(size)) != size:
        raise ForeignError("is truncated: bytes of its tensors are missing")
    return content


def _bytes_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


class _Call:
    """A function that a pickle may call; a new object for each file, since a pickle may also try to change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class _Unpickler(pickle._Unpickler):
    """Makes containers, numbers, texts and tensors; ``load_storage(key, bytes)`` gives the bytes of tensors.

    The one in Python, since that in C makes an array as long as the largest number that a file gives to an object: five
    damaged bytes take 64 GB.
    """

    def __init__(self, file: Any, load_storage: Callable[[str, int], Tensor]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self._load_storage = load_storage
        self._found: dict[str, Any] = {}
        self.left_out: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function that the pickle names; never the one of that name, which may be code."""
        full = f"{module}.{name}"
        if full not in self._found:
            self._found[full] = self._stand_for(module, name, full)
        return self._found[full]

    def _stand_for(self, module: str, name: str, full: str) -> Any:
        if _PROGRAMS.fullmatch(full):
            raise ForeignError(f"holds code, {full}, and code from files is never run; save its weights alone")
        if (module == "torch" and name in _STORAGES) or full == "torch.storage.UntypedStorage":
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if function := _FUNCTIONS.get(
            re.sub(r"^__builtin__\.", "builtins.", full.replace("numpy._core", "numpy.core"))
        ):
            return _Call(function)
        self.left_out.add(full)
        return type("Standin", (Standin,), {"stands_for": full})

    def persistent_load(self, identifier: Any) -> Any:
        """The storage of a tensor: its dtype and its bytes."""
        if identifier[0] == "module":  # of the older format: a class, with its source
            return identifier[1]
        kind, dtype, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int):
            raise ForeignError("is damaged: it names a tensor of no kind")
        content = self._load_storage(str(key), count * dtype.itemsize)
        if view and view[0] is not None:
            _, offset, length = view[0]
            content = content[offset * dtype.itemsize : (offset + length) * dtype.itemsize]
        return dtype, content


def _tensor(storage: tuple[torch.dtype, Tensor], offset: int, shape: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage, which refuses what lies outside of it."""
    dtype, content = storage
    return torch.empty(0, dtype=dtype).set_(content.view(dtype).untyped_storage(), offset, shape, stride)


def _tensor_of_dtype(storage: Any, offset: int, shape: Any, stride: Any, grad: bool, hooks: Any, dtype: Any) -> Tensor:
    return _tensor((dtype, storage[1]), offset, shape, stride)


class _NumpyDtype(Standin):
    """numpy's dtype; only those of numbers are read."""

    def __init__(self, text: object, *_: Any) -> None:
        super().__init__()
        self.text, self.order = text, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numbers(self, content: Any) -> np.ndarray:
        if not isinstance(self.text, str) or not re.fullmatch(r"[biufc]\d{1,2}", self.text) or self.order not in "<>=|":
            raise ForeignError("is damaged: it holds a number of no kind")
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, np.dtype(self.order + self.text))


def _numpy_scalar(dtype: _NumpyDtype, content: Any = b"") -> Any:
    """A scalar of numpy as a number of Python; one of another kind as an object."""
    if not isinstance(dtype.text, str) or dtype.text[:1] not in "biufc":
        return Standin()
    return dtype.numbers(content)[0].item()


def _path(*parts: Any) -> str:
    return str(PurePosixPath(*(str(part) for part in parts)))


# What files may name, as what is called in its place. numpy.core is called numpy._core today.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes=(): torch.Size(sizes),
    "torch.device": lambda *parts: ":".join(str(part) for part in parts),
    "collections.OrderedDict": lambda *items: OrderedDict(*items),
    "collections.defaultdict": lambda *_: {},
    "builtins.set": lambda items=(): set(items),
    "builtins.frozenset": lambda items=(): frozenset(items),
    "builtins.complex": lambda *parts: complex(*parts),
    "_codecs.encode": lambda text, encoding="latin1": str(text).encode("latin1"),
    "numpy.dtype": _NumpyDtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "pathlib.PosixPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib.Path": _path,
    "pathlib.WindowsPath": lambda *parts: "\\".join(str(part) for part in parts),
    "pathlib._local.PosixPath": _path,  # of Python 3.13
}


def describe_junk(path: Path) -> str | None:
    """What a file that is not a checkpoint looks like, where its first bytes show it; None where they do not."""
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file that it stands for; fetch that with git lfs pull"
    if re.match(rb"\s*(<!doctype html|<html|<\?xml)", start, re.IGNORECASE):
        return "is a web page, not a checkpoint; download the file itself"
    if start[4:8] == b"ftyp" or start.startswith((b"\x1aE\xdf\xa3", b"RIFF")):
        return "is a video, not a checkpoint"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "is a safetensors file; give it the suffix .safetensors"
    if start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            return "is damaged: its end is missing"
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "is a zip archive that torch.save did not write, not a checkpoint"
    elif not start.startswith(b"\x80"):  # with which pickles begin
        return "is a text file, not a checkpoint" if _is_text(start) else "is not a checkpoint"
    return None


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else a character is cut where the reading ended
            return False
        text = start[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)
