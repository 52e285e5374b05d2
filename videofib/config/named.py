"""Which file ``--cfg``, ``_BASE_`` and ``DISTILL.CONFIG`` mean: one of the user's, or a config of videofib by its name.

The configs of videofib are a folder for each data set. An installed package holds them itself; in a checkout they lie
beside it, in ``configs/``. The name of one is its path there, such as ``UCF101/TimeSformer_joint_8x8_224``.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from videofib.config.declare import ConfigError

SUFFIX = ".yaml"
_PACKAGE = Path(__file__).parents[1]
_NEAR = 0.6  # of two names, from 0 to 1: above it one may be meant for the other
_MOST_NAMED = 3  # names in a message


def configs_folder() -> Path:
    """The folder that holds videofib's own configs."""
    packed = _PACKAGE / "configs"
    return packed if packed.is_dir() else _PACKAGE.with_name("configs")


def named_configs() -> dict[str, Path]:
    """name -> file of all configs that come with videofib, in order of their names."""
    folder = configs_folder()
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.glob(f"*/*{SUFFIX}")}
    return dict(sorted(files.items()))


def find_config(written: str | Path, folder: Path | None = None) -> Path:
    """The file that is meant by a path or a name; an existing file comes before a config of the same name.

    Args:
        written: a path, or a name as ``named_configs`` has it, with or without ``.yaml``.
        folder: where relative paths start; by default the current folder.

    Raises:
        ConfigError: neither a file nor a name; the message has the nearest names.
    """
    reason = ""
    try:
        file = (folder or Path()) / Path(written).expanduser()
        if file.is_file():
            return file
    except OSError as error:  # a name that is too long, a folder that may not be entered
        reason = f" ({error.strerror})"
    except RuntimeError:  # ~name of an unknown user
        pass
    known = named_configs()
    if found := known.get(str(written).removesuffix(SUFFIX)):
        return found
    near = nearest_names(str(written), known)
    advice = f"; the nearest names are {', '.join(near)}" if near else ", and no config has such a name"
    raise ConfigError(f"no config file at {written}{reason}{advice}; all are in {configs_folder()}")


def nearest_names(written: str, known: dict[str, Path]) -> list[str]:
    """Names that may be meant: those that contain what is written, then those spelt alike, best first."""
    wanted = written.lower().removesuffix(SUFFIX).removeprefix("configs/").strip("/")
    if not wanted:
        return []

    def likeness(name: str) -> float:
        full, last = name.lower(), name.lower().rpartition("/")[2]
        if wanted in full:
            return 1 + len(wanted) / len(full)
        ratios = (difflib.SequenceMatcher(None, wanted, part).ratio() for part in (full, last))
        return max(ratios)

    scored = [(likeness(name), name) for name in known]
    return [name for score, name in sorted(scored, key=lambda pair: -pair[0]) if score >= _NEAR][:_MOST_NAMED]
