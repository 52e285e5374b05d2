"""The report of one run: HTML in one file, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from videofib.files import replacing
from videofib.report.analyse import Judged, intervals
from videofib.report.classes import classes_html
from videofib.report.figures import accuracy_table, cost_rows, curves, tiles, views_chart
from videofib.report.html import section, table, text
from videofib.report.mistakes import mistakes_html
from videofib.report.read import Run, changed_settings, read_run
from videofib.report.scores import read_judged
from videofib.report.style import SCRIPT, STYLE

_LISTED_FAILURES = 200


def write_report(folder: str | Path, *, cost: dict | None = None, videos: int = 6) -> Path:
    """Write ``report.html`` into the folder of a run, of what is there; returns its path.

    Args:
        cost: of the model: ``parameters``, and ``multiply_adds`` of a view.
        videos: mistakes shown with the frames of their videos; 0 keeps all pictures out.

    Raises:
        ReportError: the folder is not that of a run.
        OSError: it cannot be written to.
    """
    run = read_run(folder)
    missing = list(run.missing)
    judged = read_judged(folder, missing)
    file = Path(folder) / "report.html"
    with replacing(file) as partial:
        partial.write_text(_report(run, judged, cost, videos, missing), encoding="utf-8")
    return file


def whole_page(title: str, head: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """A page of ``parts`` (anchor, title, HTML), empty ones left out, with links to each below its ``head``."""
    parts = [part for part in parts if part[2]]
    links = "".join(f'<li><a href="#{anchor}">{text(name)}</a></li>' for anchor, name, _ in parts)
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
{head}
<nav aria-label="Contents"><ul>{links}</ul></nav>
{"".join(section(*part) for part in parts)}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def environment_rows(record: dict) -> list[list[str]]:
    """What ``environment.json`` says, as rows of name and text."""
    rows = []
    for name, value in record.items():
        if name == "git":
            rows += [["git " + key.replace("_", " "), said(what)] for key, what in (value or {}).items()]
        elif name != "packages":
            rows.append([name.replace("_", " "), said(value)])
    packages = ", ".join(f"{name} {version}" for name, version in (record.get("packages") or {}).items())
    return [*rows, ["packages", packages]] if packages else rows


def _report(run: Run, judged: Judged | None, cost: dict | None, videos: int, missing: Sequence[str]) -> str:
    results = run.results or {}
    parts = [
        ("learning", "Learning", curves([run])),
        ("accuracy", "Accuracy", _accuracy(run, judged)),
        ("mistakes", "Surest mistakes", mistakes_html(judged, videos) if judged else ""),
        ("classes", "Classes", classes_html(results, judged)),
        ("unreadable", "Unreadable videos", _failures(results.get("skipped") or [])),
        ("cost", "Cost", _titled("What the run took", ["what", "figure"], cost_rows(run, cost))),
        ("config", "Config", _config(run)),
        ("environment", "Environment", _environment(run)),
    ]
    return whole_page(f"{run.name}: report", _head(run, cost, missing), parts)


def _accuracy(run: Run, judged: Judged | None) -> str:
    if run.results is None:
        return ""
    found = accuracy_table({**intervals(judged, run.results), **run.results})
    chart = views_chart([run])
    return f'<div class="pair">{found}{chart}</div>' if chart else found


def _head(run: Run, cost: dict | None, missing: Sequence[str]) -> str:
    model = run.config.get("MODEL.MODEL_NAME")
    data = run.config.get("DATA.PATH_TO_DATA_DIR")
    started = next((record["started"] for record in run.records.values() if record.get("started")), None)
    said = [
        str(model) if model else "",
        f"on {data}" if data else "",
        f"started {started.replace('T', ' ').replace('+00:00', ' UTC')}" if isinstance(started, str) else "",
        f"tested with {run.results['checkpoint']}" if (run.results or {}).get("checkpoint") else "",
    ]
    alarms = "".join(f'<p class="alarm">Could not be read: {text(reason)}</p>' for reason in missing)
    return (
        f'<h1>{text(run.name)}</h1>\n<p class="sub">{text(", ".join(filter(None, said)))}</p>\n{alarms}'
        f"{tiles(run, cost)}"
    )


def _failures(skipped: Sequence[dict]) -> str:
    rows = [[str(entry.get("video")), str(entry.get("reason"))] for entry in skipped]
    content = _titled(f"{len(rows)} test videos could not be read", ["video", "reason"], rows[:_LISTED_FAILURES])
    rest = len(rows) - _LISTED_FAILURES
    return content + (f"<p>And {rest} more; test_results.json names them all.</p>" if rest > 0 else "")


def _config(run: Run) -> str:
    if not run.config:
        return ""
    changed = [[key, said(value), said(default)] for key, (default, value) in changed_settings(run.config).items()]
    every = "\n".join(f"{key}: {said(value)}" for key, value in run.config.items())
    return (
        _titled("Settings other than the defaults", ["key", "value", "default"], changed)
        + f'<details><summary>All {len(run.config)} settings</summary><pre tabindex="0">'
        + "\n".join(map(text, every.splitlines()))
        + "</pre></details>"
    )


def _environment(run: Run) -> str:
    return "".join(
        _titled(f"What {stage} ran on", ["what", "value"], environment_rows(record))
        for stage, record in run.records.items()
    )


def _titled(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(caption, header, rows, wide=True) if rows else ""


def said(value: object) -> str:
    """A setting as YAML and JSON write it, on one line; a dash for none."""
    if value is None or value == []:
        return "–" if value is None else "[]"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else str(value)
