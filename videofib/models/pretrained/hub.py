"""Where a saved model lies: a path, one of videofib's own by its name, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from videofib.checkpoint.file import CheckpointError
from videofib.models.pretrained.packaged import nearest_packaged, packaged_models
from videofib.printable import printable

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_CACHED = "models--"  # how the folder of a repository in the Hub's cache begins
_SHOWN = 200  # characters of a name in a message
_COMMIT = re.compile(r"[0-9a-f]{40}")
# what a model is made of; never code
_FILES = ("*.json", "*.safetensors")
_OLDER_FILES = ("*.json", "pytorch_model*.bin", "*.pyth")


def locate(name: str | Path, revision: str | None = None) -> Path:
    """The file or folder of a saved model; a repository is downloaded once, into the Hub's own cache.

    Args:
        name: a path, which comes first; the name of a model that comes with videofib (``packaged``), which comes
            second; or ``owner/model`` on the Hub. A path may be the folder of a repository in the Hub's cache
            (``models--owner--model``).
        revision: a branch, tag or commit of a repository.

    Raises:
        CheckpointError: there is no such model, with the nearest names, or it cannot be downloaded.
    """
    path = Path(name)
    try:
        path = path.expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError):  # as for a name that is too long, or ~name of an unknown user
        is_there = False
    if is_there:
        return _snapshot(path) if path.is_dir() and path.name.startswith(_CACHED) else path
    if found := packaged_models().get(str(name)):
        return found
    if _REPOSITORY.fullmatch(str(name)) and ".." not in str(name):
        return _download(str(name), revision)
    near = nearest_packaged(str(name)[:_SHOWN])
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise CheckpointError(
        f"no model at {printable(name)[:_SHOWN]}{meant}; name a checkpoint, a run's folder, a saved folder, one of "
        f"videofib's own ({', '.join(packaged_models())}), or owner/model on the Hugging Face Hub"
    )


def _snapshot(root: Path) -> Path:
    """The folder with the files of the newest download in a repository's folder of the cache.

    Raises:
        CheckpointError: it holds none.
    """
    reference, snapshots = root / "refs" / "main", root / "snapshots"
    if reference.is_file():
        with reference.open("rb") as file:
            commit = file.read(41).decode("ascii", "replace").strip()
        if _COMMIT.fullmatch(commit) and (snapshots / commit).is_dir():
            return snapshots / commit
    found = [folder for folder in snapshots.iterdir() if folder.is_dir()] if snapshots.is_dir() else []
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{printable(root)} is a folder of the Hub's cache with {len(found)} downloads, none of which is marked as the "
        "newest; name one of the folders in its snapshots"
    )


def _download(repository: str, revision: str | None) -> Path:
    import huggingface_hub  # here, since it takes half a second, and is needed for names of repositories only

    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES)))
        if not any(folder.glob("*.safetensors")):
            patterns = list(_OLDER_FILES)
            folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of the connection, of the repository, of the disk: each library below has its own
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"no file or folder {repository}, and it cannot be downloaded from the Hugging Face Hub: "
            f"{type(error).__name__}: {printable(reason)}"
        ) from error
    return folder
