"""Where videofib and the libraries it uses keep files between runs, and how large these are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from videofib.doctor.finding import Finding, State, reason


def caches() -> Iterator[Finding]:
    """Each cache: its folder and size, and the environment variable that moves it."""
    for name, variable, find, suffixes in (
        ("packets of videos", "VIDEOFIB_CACHE_DIR", _packets, ()),
        ("CPU kernel", "NUMBA_CACHE_DIR", _numba, (".nbi", ".nbc")),  # which lie among others
        ("torch hub", "TORCH_HOME", _hub, ()),
        ("Hugging Face Hub", "HF_HOME", _hugging_face, ()),
        ("torch.compile", "TORCHINDUCTOR_CACHE_DIR", _inductor, ()),
    ):
        yield cache(name, variable, find, suffixes)


def cache(name: str, variable: str, find: Callable[[], Path | None], suffixes: tuple[str, ...] = ()) -> Finding:
    """One cache, in the folder that ``find`` returns; None: nothing is kept. ``suffixes``: see ``measured``."""
    part = f"cache {name}"
    try:
        folder = find()
    except Exception as error:  # what would fill the cache does not import; its own line says FAILED
        return Finding(State.UNUSABLE, part, reason(error))
    if folder is None:
        return Finding(State.KNOWN, part, f"nothing is kept; {variable} may name a folder that can be written")
    count, size = measured(folder, suffixes)
    held = f"{size / 2**20:,.1f} MiB, files: {count:,}" if count else "empty"
    return Finding(State.KNOWN, part, f"{folder} ({variable}): {held}")


def measured(folder: Path, suffixes: tuple[str, ...] = ()) -> tuple[int, int]:
    """How many files a folder and those below it hold, and their bytes; links are neither followed nor counted.

    ``suffixes``: of the files that count; none: all.
    """
    count = size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                if path.is_symlink() or (suffixes and not name.endswith(suffixes)):
                    continue
                size += path.stat().st_size
            except OSError:  # removed meanwhile
                continue
            count += 1
    return count, size


def _packets() -> Path | None:
    from videofib.data.video.survey_cache import cache_folder

    return cache_folder()


def _numba() -> Path | None:
    from videofib.attention.kernels.cpu.compiled import compiled
    from videofib.attention.kernels.cpu.forward import make_forward

    loop: Any = compiled(make_forward, 64, False)  # compiles nothing yet
    folder = loop.stats.cache_path
    return Path(folder) if folder else None


def _hub() -> Path:
    import torch

    return Path(torch.hub.get_dir())


def _hugging_face() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _inductor() -> Path:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default_cache_dir())
