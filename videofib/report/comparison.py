"""Several runs side by side: curves overlaid, what differs of figures, settings and classes, the same videos paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videofib.files import replacing
from videofib.report.analyse import paired
from videofib.report.figures import FIGURES, amount, curves, duration, train_seconds, views_chart
from videofib.report.html import interval, number, percent, table, text
from videofib.report.page import said, whole_page
from videofib.report.read import ReportError, Run, read_run
from videofib.report.scores import read_judged

_MOST_CLASSES = 40  # shown, of those that differ most
_OWN = ("OUTPUT_DIR",)  # settings that differ of necessity


class Comparison:
    """What can be said of several runs.

    Args:
        folders: of two runs or more.
        costs: of their models, as a report of each takes it.

    Raises:
        ReportError: fewer than two, or a folder that is not that of a run.
    """

    def __init__(self, folders: Sequence[str | Path], costs: Sequence[dict | None] = ()):
        if len(folders) < 2:
            raise ReportError(f"two runs or more are compared, got {len(folders)}")
        self.runs = _named_apart([read_run(folder) for folder in folders], folders)
        self.costs = list(costs) or [None] * len(folders)
        self.missing: list[str] = []
        self.judged = [read_judged(folder, self.missing) for folder in folders]

    def figures(self) -> list[list[str]]:
        """A row for each figure: its name, and what it is in each run."""
        rows = []
        for key, name in FIGURES.items():
            results = [run.results or {} for run in self.runs]
            if any(found.get(key) is not None for found in results):
                rows.append([name, *(_with_interval(found, key) for found in results)])
        ends = [run.epochs[-1] if run.epochs else {} for run in self.runs]
        rows += [
            ["Test videos", *(number((run.results or {}).get("num_videos")) for run in self.runs)],
            ["Views of each", *(number((run.results or {}).get("num_views")) for run in self.runs)],
            [
                "Training loss at the end",
                *(number(run.epochs[-1].get("loss")) if run.epochs else "–" for run in self.runs),
            ],
            ["Epochs", *(number(end.get("epoch")) for end in ends)],
            ["Training time", *(duration(train_seconds(run.epochs)) if run.epochs else "–" for run in self.runs)],
            ["Parameters", *(amount(cost["parameters"]) if cost else "–" for cost in self.costs)],
            ["Multiply-adds of a view", *(amount(cost["multiply_adds"]) if cost else "–" for cost in self.costs)],
            ["Git commit", *(_commit(run) for run in self.runs)],
        ]
        return [row for row in rows if set(row[1:]) != {"–"}]

    def settings(self) -> list[list[str]]:
        """A row for each setting that is not the same in all runs."""
        keys = sorted({key for run in self.runs for key in run.config} - set(_OWN))
        rows = [[key, *(said(run.config[key]) if key in run.config else "–" for run in self.runs)] for key in keys]
        return [row for row in rows if len(set(row[1:])) > 1]

    def classes(self) -> list[list[str]]:
        """A row for each class that two runs know: its figure in each, those that differ most first."""
        by_class = [_by_class(run.results or {}) for run in self.runs]
        names = [name for name in by_class[0] if any(name in found for found in by_class[1:])]
        spread = {}
        for name in names:
            known = [found[name] for found in by_class if found.get(name) is not None]
            spread[name] = max(known) - min(known) if len(known) > 1 else 0.0
        chosen = sorted((name for name in names if spread[name] > 0), key=lambda name: -spread[name])[:_MOST_CLASSES]
        return [[name, *(percent(found.get(name)) for found in by_class), f"{spread[name]:.1f}"] for name in chosen]

    def pairs(self) -> list[list[str]]:
        """A row for each run after the first that shares videos with it; see ``analyse.paired``."""
        rows, first = [], self.judged[0]
        for run, other in zip(self.runs[1:], self.judged[1:], strict=True):
            if first is None or other is None or first.several or other.several:
                continue
            found = paired(first, other)
            if not found["videos"]:
                continue
            rows.append(
                [
                    f"{self.runs[0].name} and {run.name}",
                    number(found["videos"]),
                    number(found["first_only"]),
                    number(found["second_only"]),
                    f"{found['difference']:+.1f}".replace("-", "−"),
                    interval(found["interval"]).removesuffix(" %"),
                    f"{found['p_value']:.3g}",
                ]
            )
        return rows

    def as_text(self) -> str:
        """The tables as plain text, for a terminal."""
        names = [run.name for run in self.runs]
        parts = [
            _plain(["figure", *names], self.figures()),
            _plain(["setting", *names], self.settings()),
            _plain(PAIRS, self.pairs()),
        ]
        return "\n\n".join(filter(None, parts))

    def as_page(self) -> str:
        """The same as a page of HTML, with curves and classes."""
        names = [run.name for run in self.runs]
        beside = "Two runs on the same videos; the difference is in percent points of top-1 accuracy"
        parts = [
            ("figures", "Figures", table("Figures of the runs", ["figure", *names], self.figures(), wide=True)),
            ("pairs", "The same videos", _table(beside, PAIRS, self.pairs(), note=_PAIRS_NOTE)),
            ("learning", "Learning", curves(self.runs)),
            ("views", "Views", views_chart(self.runs)),
            ("classes", "Classes", _table(_CLASSES_CAPTION, ["class", *names, "difference"], self.classes())),
            ("settings", "Settings", _settings(names, self.settings())),
        ]
        alarms = "".join(f'<p class="alarm">Could not be read: {text(reason)}</p>' for reason in self.missing)
        title = " and ".join(names) if len(names) == 2 else f"{len(names)} runs"
        return whole_page(f"{title}: comparison", f"<h1>{text(title)} compared</h1>\n{alarms}", parts)

    def write(self, file: str | Path) -> None:
        """Write the page, whole or not at all."""
        with replacing(file) as partial:
            partial.write_text(self.as_page(), encoding="utf-8")


PAIRS = ["runs", "videos", "only the former right", "only the latter right", "difference", "95 % interval", "p"]
_PAIRS_NOTE = (
    "The interval is a bootstrap over videos. p is that of McNemar's exact test: how likely so uneven a split of the "
    "videos that only one of the two gets right would be if both were equally good. It knows nothing of chance in "
    "training: two seeds may differ as much."
)
_CLASSES_CAPTION = "Classes whose figures differ, those that differ most first"


def _named_apart(runs: Sequence[Run], folders: Sequence[str | Path]) -> list[Run]:
    """The runs with names that differ: of equal ones the folder above is told, too, or else their number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = ["/".join(Path(folder).resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names, 1)]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _with_interval(results: dict, key: str) -> str:
    bounds = results.get(f"{key}_interval")
    return percent(results.get(key)) + (f" ({interval(bounds)})" if bounds else "")


def _by_class(results: dict) -> dict[str, float | None]:
    return results.get("per_class_ap") or results.get("per_class_acc") or {}


def _commit(run: Run) -> str:
    git = next((record["git"] for record in run.records.values() if record.get("git")), None)
    return str(git.get("commit"))[:12] + (" with changes" if git.get("dirty") else "") if git else "–"


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    if not rows:
        return ""
    return table(caption, header, rows, numeric=True) + (f'<p class="sub">{note}</p>' if note else "")


def _settings(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>No setting differs.</p>"
    return table("Settings that differ", ["key", *names], rows, wide=True)


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    rows = [[cell.replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
