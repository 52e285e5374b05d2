"""Where a saved model lies: a path, one of videofib's own, or a repository of the Hub; and how to upload one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from videofib.checkpoint.file import CheckpointError
from videofib.models.pretrained.packaged import nearest_packaged, packaged_models
from videofib.printable import printable

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_CACHED = "models--"  # how the folder of a repository in the Hub's cache begins
_SHOWN = 200  # characters of a name in a message
_COMMIT = re.compile(r"[0-9a-f]{40}")
# what a model is made of; never code
_FILES = ("*.json", "*.safetensors")
_CARD = "README.md"
_OUTDATED = (  # in a repository, where the model that is uploaded does not have them
    *("model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("configuration_videofib.py", "modeling_videofib.py", "wythoff.py"),
)
_UNKNOWN, _FORBIDDEN = 401, 403  # what the Hub answers to tokens
_REASON = 300  # characters of an error of its library
_OLDER_FILES = ("*.json", "pytorch_model*.bin", "*.pyth")


def locate(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The file or folder of a saved model; a repository is downloaded once, into the Hub's own cache.

    Args:
        name: a path, which comes first; the name of a model that comes with videofib (``packaged``), which comes
            second; or ``owner/model`` on the Hub. A path may be the folder of a repository in the Hub's cache
            (``models--owner--model``).
        revision: a branch, tag or commit of a repository.
        token: for repositories that are not public; by default the one that ``hf auth login`` has stored.

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
        return _download(str(name), revision, token)
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


def _download(repository: str, revision: str | None, token: str | None) -> Path:
    import huggingface_hub  # here, since it takes half a second, and is needed for names of repositories only

    try:
        options: dict[str, Any] = {"revision": revision, "token": token}
        folder = Path(huggingface_hub.snapshot_download(repository, **options, allow_patterns=list(_FILES)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(repository, **options, allow_patterns=list(_OLDER_FILES)))
    except Exception as error:  # of the connection, of the repository, of the disk: each library below has its own
        raise CheckpointError(
            f"no file or folder {repository}, and it cannot be downloaded from the Hugging Face Hub: "
            f"{type(error).__name__}: {_reason(error, token)}"
        ) from error
    return folder


def upload(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload a model of videofib",
) -> str:
    """Put the files of a saved model's folder into a repository, in one commit; returns the commit's URL.

    The repository is made where there is none. Files of an earlier model that this one does not have, its code and
    parts of its weights, are removed with the same commit. A model card that is there already stays, since its authors
    may have written in it.

    Args:
        repository: ``owner/model``.
        private: whether a new repository is; by default as the owner's settings say.
        token: by default the one that ``hf auth login`` has stored, or ``HF_TOKEN``.
        revision: a branch, which must exist; by default ``main``.

    Raises:
        CheckpointError: not a repository's name, a repository that is there and not as ``private`` says, no connection,
            no token, or one without the rights.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise CheckpointError(f"{printable(repository)[:_SHOWN]} is not the name of a repository, owner/model")
    import huggingface_hub  # here, for the same reason

    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        found = api.repo_info(repository, revision=revision)
        if private is not None and bool(found.private) != private:
            raise CheckpointError(
                f"{repository} is {'private' if found.private else 'public'} on the Hugging Face Hub, and private="
                f"{private} does not change that; change it in its settings there. Nothing was uploaded"
            )
        has_card = any(file.rfilename == _CARD for file in found.siblings or ())
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            ignore_patterns=[_CARD] if has_card else None,
            delete_patterns=list(_OUTDATED),
        )
    except CheckpointError:
        raise
    except Exception as error:  # of the connection, of the repository, of the token: each library below has its own
        raise CheckpointError(
            f"cannot upload to {repository} on the Hugging Face Hub: {_hint(error)}{type(error).__name__}: "
            f"{_reason(error, token)}"
        ) from error
    return str(commit.commit_url)


def _hint(error: Exception) -> str:
    """What to do about an error, where it is one that people meet."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if type(error).__name__ == "LocalTokenNotFoundError" or status == _UNKNOWN:
        return "no token, or one that is not valid; run `hf auth login`, or give token=...; "
    if status == _FORBIDDEN:
        return "the token may not write there; make one with write access; "
    return ""


def _reason(error: Exception, token: str | None) -> str:
    """The message of an error as one line, without the token."""
    text = " ".join(str(error).split())
    return printable((text.replace(token, "***") if token else text)[:_REASON])
