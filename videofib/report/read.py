"""A run's folder as plain data; files that are absent are left out, damaged ones are listed as missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from videofib.config import default_config


class ReportError(RuntimeError):
    """A folder that is not that of a run; the message says what it lacks."""


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder.

    Attributes:
        name: of the folder.
        config: value by full key (``SOLVER.BASE_LR``), those of TEST as in the last test; empty where there is no
            config.
        records: stage (training, testing) -> the contents of its ``environment.json``.
        steps, epochs, validations: figures of training, in order; see ``timeline``.
        results: the contents of ``test_results.json``, or None.
        missing: the files that could not be read, each with the reason.
    """

    name: str
    config: dict[str, object] = field(default_factory=dict)
    records: dict[str, dict] = field(default_factory=dict)
    steps: Sequence[dict] = ()
    epochs: Sequence[dict] = ()
    validations: Sequence[dict] = ()
    results: dict | None = None
    missing: Sequence[str] = ()


def read_run(folder: str | Path) -> Run:
    """The parts of a run that can be read.

    Raises:
        ReportError: the folder has neither figures of training nor results of a test.
    """
    folder = Path(folder)
    missing: list[str] = []
    lines = _stats(folder / "stats.jsonl")
    results = _json(folder / "test_results.json", missing)
    if not lines and results is None:
        raise ReportError(f"{folder} is not the folder of a run: it has neither stats.jsonl nor test_results.json")
    records = {
        title: found
        for title, file in (("training", "environment.json"), ("testing", "test_environment.json"))
        if (found := _json(folder / file, missing)) is not None
    }
    return Run(
        folder.resolve().name,
        _settings(folder, records, missing),
        records,
        timeline(lines, "train_iter"),
        timeline(lines, "train_epoch"),
        timeline(lines, "val_epoch"),
        results,
        missing,
    )


def timeline(lines: Sequence[dict], kind: str) -> list[dict]:
    """The lines of a kind in order, each with ``at``: the epochs finished by then, such as 1.5.

    A run that resumes from a checkpoint repeats the steps after it. The new lines replace those of the interrupted
    attempt, also of steps that the resumed run has yet to reach.
    """
    kept: list[dict] = []
    for line in lines:
        at = _epochs_done(line)
        if at is None:
            continue
        while kept and kept[-1]["at"] >= at and not _same_epoch_end(kept[-1], line):
            kept.pop()
        kept.append({**line, "at": at})
    return [line for line in kept if line["_type"] == kind]


def changed_settings(config: dict[str, object]) -> dict[str, tuple[object, object]]:
    """The keys whose values differ from the defaults: key -> (default, value)."""
    defaults = flat(default_config())
    return {key: (defaults.get(key), value) for key, value in config.items() if defaults.get(key) != value}


def flat(node: dict, prefix: str = "") -> dict[str, object]:
    """Nested sections as full keys (``SOLVER.BASE_LR``)."""
    found: dict[str, object] = {}
    for name, value in node.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _epochs_done(line: dict) -> float | None:
    epoch, step, steps = (line.get(key) for key in ("epoch", "step", "steps"))
    if line["_type"] not in _ORDER or not isinstance(epoch, int):
        return None
    if line["_type"] != "train_iter":
        return float(epoch)
    return epoch - 1 + step / steps if isinstance(step, int) and isinstance(steps, int) and steps > 0 else None


def _same_epoch_end(before: dict, line: dict) -> bool:
    """Whether both lines are of the end of one epoch, in the order of one attempt: last step, epoch, validation."""
    return before["at"] == _epochs_done(line) and _ORDER.index(before["_type"]) < _ORDER.index(line["_type"])


_ORDER = ("train_iter", "train_epoch", "val_epoch")


def _stats(file: Path) -> list[dict]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            stats = json.loads(line)
        except ValueError:
            continue  # an incomplete line, where the run was killed
        if isinstance(stats, dict) and isinstance(stats.get("_type"), str):
            found.append(stats)
    return found


def _json(file: Path, missing: list[str]) -> dict | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, got {type(found).__name__}")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        missing.append(f"{file.name}: {error}")
        return None


def _settings(folder: Path, records: dict[str, dict], missing: list[str]) -> dict[str, object]:
    """The config of training, with the keys of TEST of a later test by itself, which writes its own."""
    training, testing = (_config(folder / name, missing) for name in ("config.yaml", "test_config.yaml"))
    trained, tested = (str(records.get(stage, {}).get("started") or "") for stage in ("training", "testing"))
    if training and tested > trained:  # times in UTC, in ISO format
        return training | {key: value for key, value in testing.items() if key.startswith("TEST.")}
    return training or testing


def _config(file: Path, missing: list[str]) -> dict[str, object]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"expected sections and keys, got {type(found).__name__}")
        return flat(found)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        missing.append(f"{file.name}: {' '.join(str(error).split())}")
        return {}
