"""The report of one run: HTML in one file, which needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videofib.data.source import FrameFiles
from videofib.files import replacing
from videofib.report.classes import classes_html
from videofib.report.figures import accuracy_table, cost_rows, curves, tiles, views_chart
from videofib.report.markup.html import document, setting, table, text
from videofib.report.mistake_heat import MistakeHeat, read_heat
from videofib.report.mistakes import mistakes_html
from videofib.report.read import Run, changed_settings, read_run
from videofib.report.scored_videos import ScoredVideos, read_scored_videos
from videofib.report.video_folders import VideoFolders

_LISTED_FAILURES = 200
_ENVIRONMENT_NAMES = {  # of keys that are not words
    "cpu": "CPU",
    "cpu_cores": "CPU cores",
    "cpu_cores_usable": "usable CPU cores",
    "memory_gib": "memory, GiB",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "gpus": "GPUs",
    "git_dirty": "git, uncommitted changes",
    "git_changed": "git, changed files",
    "git_diff_sha256": "git, SHA-256 of the changes",
}


def write_report(
    folder: str | Path,
    *,
    cost: dict | None = None,
    videos: int = 6,
    data: Sequence[str | Path] = (),
    own_test: bool = False,
) -> Path:
    """Write ``report.html`` into the folder of a run, from the files that are in it; returns its path.

    Args:
        cost: of the model: ``parameters``, and ``multiply_adds`` of a view.
        videos: mistakes shown with frames of their videos; with 0 the page has no pictures.
        data: folders and URLs whose videos may be read for that, beside the run's data folder; see ``VideoFolders``.
        own_test: this process has just tested the run, and read the videos itself: all of them may be read.

    Raises:
        ReportError: the folder is not that of a run.
        OSError: it cannot be written to.
    """
    run = read_run(folder)
    missing = list(run.missing)
    scored = read_scored_videos(folder, missing)
    heat = read_heat(folder, missing)
    folders = VideoFolders(data, run.config.get("DATA.PATH_TO_DATA_DIR"), everything=own_test)
    file = Path(folder) / "report.html"
    with replacing(file) as partial:
        partial.write_text(_report(run, scored, cost, videos, missing, folders, heat), encoding="utf-8")
    return file


def environment_rows(record: dict) -> list[list[str]]:
    """The contents of ``environment.json`` as rows of name and text; empty values are left out."""
    git = {f"git_{name}": value for name, value in (record.get("git") or {}).items()}
    values = {name: value for name, value in record.items() if name not in ("git", "packages")} | git
    rows = [
        [_ENVIRONMENT_NAMES.get(name, name.replace("_", " ")), _time(value) if name == "started" else _described(value)]
        for name, value in values.items()
        if value is not None and value != []
    ]
    packages = ", ".join(f"{name} {version}" for name, version in (record.get("packages") or {}).items())
    return [*rows, ["packages", packages]] if packages else rows


def _time(value: object) -> str:
    """``2024-05-01 12:30:00 UTC`` of a time in ISO format."""
    return str(value).replace("T", " ").replace("+00:00", " UTC")


def _described(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(
            f"{entry.get('name')}, {entry.get('memory_gib')} GiB, compute capability {entry.get('capability')}"
            if isinstance(entry, dict)
            else str(entry)
            for entry in value
        )
    return setting(value)


def _report(
    run: Run,
    scored: ScoredVideos | None,
    cost: dict | None,
    videos: int,
    missing: Sequence[str],
    folders: VideoFolders,
    heat: Mapping[int, MistakeHeat],
) -> str:
    results = run.results or {}
    parts = [
        ("learning", "Learning", curves([run])),
        ("accuracy", "Accuracy", _accuracy(run)),
        ("mistakes", "Most confident mistakes", _mistakes(run, scored, videos, folders, heat)),
        ("classes", "Classes", classes_html(results, scored)),
        ("unreadable", "Unreadable videos", _failures(results.get("skipped") or [])),
        ("cost", "Cost", _table("Cost of the model and the run", ["quantity", "value"], cost_rows(run, cost))),
        ("config", "Config", _config(run)),
        ("environment", "Environment", _environment(run)),
    ]
    return document(f"{run.name}: report", _head(run, cost, missing), parts)


def _accuracy(run: Run) -> str:
    if run.results is None:
        return ""
    figures = accuracy_table(run.results)
    chart = views_chart([run])
    return f'<div class="pair">{figures}{chart}</div>' if chart else figures


def _head(run: Run, cost: dict | None, missing: Sequence[str]) -> str:
    model = run.config.get("MODEL.MODEL_NAME")
    data = run.config.get("DATA.PATH_TO_DATA_DIR")
    started = next((record["started"] for record in run.records.values() if record.get("started")), None)
    checkpoint = (run.results or {}).get("checkpoint")
    facts = [
        str(model) if model else "",
        f"data {data}" if data else "",
        f"started {_time(started)}" if started else "",
        f"tested with {Path(str(checkpoint)).name}" if checkpoint else "",
    ]
    alarms = "".join(f'<p class="alarm">Could not be read: {text(reason)}</p>' for reason in missing)
    return (
        f'<h1>{text(run.name)}</h1>\n<p class="sub">{text(" · ".join(filter(None, facts)))}</p>\n{alarms}'
        f"{tiles(run, cost)}"
    )


def _failures(skipped: Sequence[dict]) -> str:
    rows = [[str(entry.get("video")), str(entry.get("reason"))] for entry in skipped]
    content = _table(f"{len(rows)} test videos could not be read", ["video", "reason"], rows[:_LISTED_FAILURES])
    rest = len(rows) - _LISTED_FAILURES
    return content + (f"<p>And {rest} more, which test_results.json lists.</p>" if rest > 0 else "")


def _mistakes(
    run: Run,
    scored: ScoredVideos | None,
    videos: int,
    folders: VideoFolders,
    heat: Mapping[int, MistakeHeat] | None,
) -> str:
    if not scored:
        return ""
    rates = [run.config.get(key) for key in ("DATA.FRAME_RATE", "DATA.TARGET_FPS")]
    fps = next((float(rate) for rate in rates if isinstance(rate, int | float) and rate > 0), 0.0)
    files = FrameFiles(str(run.config.get("DATA.FRAME_PATTERN") or ""), fps)
    return mistakes_html(scored, videos, folders, heat, files)


def _config(run: Run) -> str:
    if not run.config:
        return ""
    changed = [
        [key, setting(value), setting(default)] for key, (default, value) in changed_settings(run.config).items()
    ]
    every = "\n".join(f"{key}: {setting(value)}" for key, value in run.config.items())
    return (
        _table("Settings that differ from the defaults", ["key", "value", "default"], changed)
        + f'<details><summary>All {len(run.config)} settings</summary><pre tabindex="0">'
        + "\n".join(map(text, every.splitlines()))
        + "</pre></details>"
    )


def _environment(run: Run) -> str:
    return "".join(
        _table(f"Environment of {stage}", ["property", "value"], environment_rows(record))
        for stage, record in run.records.items()
    )


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(caption, header, rows, wide=True) if rows else ""
