"""A run's folder as plain data; files that are absent are left out, damaged ones are listed as missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videofib.config import KEYS, MAPPINGS, SECTIONS, default_config, value_of
from videofib.config.declare import Refused
from videofib.config.yaml_reader import BadYaml, read_entries
from videofib.printable import printable
from videofib.report.run_files import (
    Reader,
    Unusable,
    amount,
    count,
    figure,
    json_object,
    list_of,
    of_names,
    open_file,
    percentage,
    read_object,
    read_text,
    record_of,
    row_of,
    typed,
    word,
)

_MOST_BYTES = 64 << 20  # of results: those of 400 classes have 60 kB
_MOST_RECORD_BYTES = 1 << 20  # of an environment or a config
_LONGEST_LINE = 1 << 16  # bytes of a line of figures: they have 300
_MOST_LINES = 5_000_000

_ACCURACIES = ("top1_acc", "top5_acc", "mAP", "mean_class_acc", "clip_top1_acc", "calibration_error")
_RESULTS: dict[str, Reader] = {
    **dict.fromkeys(_ACCURACIES, percentage),
    **dict.fromkeys(("num_videos", "num_views", "num_crops"), count),
    **dict.fromkeys(("view_starts", "precision", "videos_sha256", "checkpoint", "labels"), word),
    **dict.fromkeys(("per_class_acc", "per_class_ap"), of_names(percentage)),
    "per_class_videos": of_names(count),
    "accuracy_by_views": list_of(row_of(count, percentage, percentage, fewest=2)),
    "skipped": list_of(record_of(video=word, reason=word)),
}
_FIGURES: dict[str, Reader] = {  # of a line of stats.jsonl
    **dict.fromkeys(("epoch", "epochs", "step", "steps", "skipped_steps", "replaced_videos"), count),
    **dict.fromkeys(("loss", "lr", "grad_norm"), figure),
    **dict.fromkeys(("seconds", "clips_per_second", "data_wait", "memory_gib"), amount),
    **dict.fromkeys(_ACCURACIES, percentage),
}


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
    lines = _stats(folder, missing)
    results = _results(folder, missing)
    if not lines and results is None:
        reason = f" that can be read ({'; '.join(missing)})" if missing else ""
        raise ReportError(
            f"{folder} is not the folder of a run: it has neither stats.jsonl nor test_results.json{reason}"
        )
    records = {
        title: found
        for title, file in (("training", "environment.json"), ("testing", "test_environment.json"))
        if (found := _record(folder, file, missing)) is not None
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
    standard = default_config()
    defaults = {key: value_of(standard, key) for key in KEYS}
    return {key: (defaults.get(key), value) for key, value in config.items() if defaults.get(key) != value}


def _epochs_done(line: dict) -> float | None:
    epoch, step, steps = (line.get(key) for key in ("epoch", "step", "steps"))
    if line["_type"] not in _ORDER or epoch is None:
        return None
    if line["_type"] != "train_iter":
        return float(epoch)
    return epoch - 1 + step / steps if step is not None and steps else None


def _same_epoch_end(before: dict, line: dict) -> bool:
    """Whether both lines are of the end of one epoch, in the order of one attempt: last step, epoch, validation."""
    return before["at"] == _epochs_done(line) and _ORDER.index(before["_type"]) < _ORDER.index(line["_type"])


_ORDER = ("train_iter", "train_epoch", "val_epoch")


def _stats(folder: Path, missing: list[str]) -> list[dict]:
    """The lines of figures. Those that are none, as where the run was killed, are counted in ``missing``."""
    name, found, wrong, number = "stats.jsonl", [], [], 0
    try:
        file = open_file(folder, name)
        if file is None:
            return []
        with file:
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if number > _MOST_LINES:
                    wrong.append(f"line {number}: only the first {_MOST_LINES:,} lines are read")
                    break
                problems: list[str] = []
                found.append(_stats_line(line, problems))
                if problems:
                    wrong.append(f"line {number}: {problems[0]}")
        if not number:
            missing.append(f"{name}: it is empty")
    except (Unusable, OSError) as error:
        missing.append(f"{name}: {printable(error)}")
    if wrong:
        missing.append(f"{name}: {len(wrong)} of {number} lines cannot be read in full; {wrong[0]}")
    return [line for line in found if line]


def _stats_line(line: bytes, problems: list[str]) -> dict:
    """The figures of a line; empty where it is not one."""
    try:
        stats = json_object(line)
    except Unusable as error:
        problems.append(str(error))
        return {}
    kind = stats.get("_type")
    if not isinstance(kind, str):
        problems.append("it has no _type")
        return {}
    return {"_type": kind, **typed(stats, _FIGURES, problems)} if kind in _ORDER else {"_type": kind}


def _results(folder: Path, missing: list[str]) -> dict | None:
    found = _object(folder, "test_results.json", _MOST_BYTES, missing)
    if found is None:
        return None
    problems: list[str] = []
    results = typed(found, _RESULTS, problems)
    missing += [f"test_results.json: {problem}" for problem in problems]
    return results


def _record(folder: Path, name: str, missing: list[str]) -> dict | None:
    """The contents of an ``environment.json``; its values are shown as they are, but for those that have a form."""
    found = _object(folder, name, _MOST_RECORD_BYTES, missing)
    if found is None:
        return None
    problems: list[str] = []
    formed = {key: read for key, read in _RECORD.items() if found.get(key) is not None}
    values = {key: value for key, value in found.items() if key not in _RECORD}
    values |= typed(found, formed, problems)
    missing += [f"{name}: {problem}" for problem in problems]
    return {key: values[key] for key in found if key in values}


def _anything(value: object) -> object:
    return value


_RECORD: dict[str, Reader] = {"started": word, "git": of_names(_anything), "packages": of_names(word)}


def _object(folder: Path, name: str, most: int, missing: list[str]) -> dict | None:
    try:
        return read_object(folder, name, most)
    except Unusable as error:
        missing.append(f"{name}: {error}")
        return None


def _settings(folder: Path, records: dict[str, dict], missing: list[str]) -> dict[str, object]:
    """The config of training, with the keys of TEST of a later test by itself, which writes its own."""
    training, testing = (_config(folder, name, missing) for name in ("config.yaml", "test_config.yaml"))
    trained, tested = (str(records.get(stage, {}).get("started") or "") for stage in ("training", "testing"))
    if training and tested > trained:  # times in UTC, in ISO format
        return training | {key: value for key, value in testing.items() if key.startswith("TEST.")}
    return training or testing


def _config(folder: Path, name: str, missing: list[str]) -> dict[str, object]:
    """The values by full key; a key of another version, and a value that its key does not accept, as written."""
    try:
        text = read_text(folder, name, _MOST_RECORD_BYTES)
        entries = [] if text is None else read_entries(text, MAPPINGS)
    except (Unusable, BadYaml, RecursionError) as error:
        missing.append(f"{name}: {printable(error)}")
        return {}
    found: dict[str, object] = {}
    for key, written, line in entries:
        if written is None and key in SECTIONS:  # an empty section
            continue
        found[key] = written
        if key in KEYS:
            try:
                found[key] = KEYS[key].read(written)
            except (Refused, ValueError, OverflowError) as refused:
                missing.append(f"{name}, line {line}: {key} is {str(written)[:60]!r}; it must be {refused}")
    return found
