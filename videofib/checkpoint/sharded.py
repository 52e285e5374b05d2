"""Checkpoints as folders, into which every process writes its own shards of the tensors at the same time.

::

    checkpoint_epoch_00003.dcp/
        content.pyth                all that is not sharded, the name and shape of each tensor that is, and the
                                    names and checksums of the files beside it; written last
        shard-00001-*.safetensors   the shards of one process, as torch.distributed.checkpoint lays them out

The usual metadata of torch.distributed.checkpoint is a pickle, which may hold code. Its safetensors layout has none:
where a shard belongs stands in the header of its file, as JSON. Any number of processes can read the folder.
"""

from __future__ import annotations

import inspect
import os
import shutil
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from videofib.distributed import processes
from videofib.files import replacing

SUFFIX = ".dcp"
CONTENT = "content.pyth"
_SHARDS = "*.safetensors"


def can_write_sharded() -> bool:
    """Whether this torch has the layout; 2.6, the oldest that videofib supports, has not."""
    writer = getattr(dcp, "HuggingFaceStorageWriter", None)
    return writer is not None and "save_distributed" in inspect.signature(writer).parameters


def map_tensors(tree: Any, change: Callable[[Tensor, str], Any], name: str = "") -> Any:
    """A copy of dicts, lists and tuples within each other, with ``change(tensor, name)`` in place of each tensor."""
    if isinstance(tree, Tensor):
        return change(tree, name)
    if isinstance(tree, dict):
        return {key: map_tensors(value, change, f"{name}.{key}" if name else str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(value, change, f"{name}.{key}") for key, value in enumerate(tree))
    return tree


def write_sharded(folder: Path, content: dict[str, Any]) -> None:
    """Write ``content``, whose sharded tensors are DTensors, to ``folder``: complete or not at all.

    All processes call it. One that is killed leaves a hidden ``.*.partial`` folder, which the next attempt at the same
    checkpoint removes.

    Raises:
        OSError: it cannot be written.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter  # which not every torch has

    shards: dict[str, DTensor] = {}

    def set_aside(tensor: Tensor, name: str) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        shards[name] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    rest = map_tensors(content, set_aside)
    partial = folder.with_name(f".{folder.name}.partial")
    if processes.is_main():
        _remove(partial)
        partial.mkdir(parents=True)
    processes.barrier()
    try:
        dcp.save(shards, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
    except CheckpointException as error:  # which is not an Exception; it lists what went wrong in which process
        raise OSError("; ".join(f"process {rank}: {failure[0]}" for rank, failure in error.failures.items())) from error
    files = sorted(partial.glob(_SHARDS))
    own = {file.name: _checksum(file) for file in files[processes.rank() :: processes.world_size()]}
    checksums = processes.gather(own)
    if checksums is not None:
        by_name = {name: value for part in checksums for name, value in part.items()}
        with replacing(partial / CONTENT) as file:
            torch.save({**rest, "files": by_name}, file)
        _remove(folder)
        partial.rename(folder)
        _flush(folder.parent)


def read_sharded(folder: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """What ``write_sharded`` was given, with full tensors on the CPU; each process reads all of it.

    Args:
        read: reads ``content.pyth``, as tensors and plain values.

    Raises:
        ValueError: files are missing, altered or unknown, or do not hold what the content names.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    content = read(folder / CONTENT)
    named = content.pop("files", None) if isinstance(content, dict) else None
    found = {file.name: file for file in sorted(folder.glob(_SHARDS))}
    if not isinstance(named, dict) or named.keys() != found.keys():
        raise ValueError(f"{CONTENT} names other files than the folder has: {named}, found {list(found)}")
    if altered := [name for name, file in found.items() if _checksum(file) != named[name]]:
        raise ValueError(f"{', '.join(altered)} is not what was written")
    _check_sizes(content, sum(file.stat().st_size for file in found.values()))
    tensors: dict[str, Tensor] = {}

    def allocate(tensor: Tensor, name: str) -> Tensor:
        if not tensor.is_meta:
            return tensor
        tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return tensors[name]

    content = map_tensors(content, allocate)
    reader = HuggingFaceStorageReader(str(folder))
    reader.read_metadata()  # here errors are raised; dcp.load prints them as a traceback and looks elsewhere
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is intended here
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return content


def remove_sharded(folder: Path) -> None:
    """Remove a checkpoint folder; once the removal has begun, it no longer looks like one."""
    hidden = folder.with_name(f".{folder.name}.partial")
    _remove(hidden)
    folder.rename(hidden)
    _remove(hidden)


def _check_sizes(content: Any, most: int) -> None:
    """Raise ValueError where the tensors that are to be read are larger than the files: before memory is taken."""
    sizes: list[int] = []
    map_tensors(content, lambda tensor, _: sizes.append(tensor.numel() * tensor.element_size() * tensor.is_meta))
    if (size := sum(sizes)) > most:
        raise ValueError(f"{CONTENT} names tensors of {size:,} bytes, and the files beside it have only {most:,}")


def _checksum(file: Path) -> int:
    """CRC-32: neither torch nor safetensors notices a flipped bit within a tensor."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
