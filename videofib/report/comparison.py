"""Several runs side by side: curves, figures, settings and classes that differ, and paired tests on the same videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videofib.files import replacing
from videofib.report.analysis import disagreement, paired
from videofib.report.figures import FIGURES, amount, curves, duration, train_seconds, views_chart
from videofib.report.html import document, interval, number, percent, setting, table, text
from videofib.report.read import ReportError, Run, read_run
from videofib.report.scored_videos import read_scored_videos

_MOST_CLASSES = 40  # shown, those that differ most
_ALWAYS_DIFFERENT = ("OUTPUT_DIR",)


class Comparison:
    """The figures, settings, classes and videos of several runs.

    Args:
        folders: of two runs or more.
        costs: of their models, as ``write_report`` takes them.

    Raises:
        ReportError: there are fewer than two runs, or a folder is not that of a run.
    """

    def __init__(self, folders: Sequence[str | Path], costs: Sequence[dict | None] = ()):
        if len(folders) < 2:
            raise ReportError(f"expected two runs or more, got {len(folders)}")
        self.runs = _with_distinct_names([read_run(folder) for folder in folders], folders)
        self.costs = list(costs) or [None] * len(folders)
        self.missing: list[str] = []
        self.scored = [read_scored_videos(folder, self.missing) for folder in folders]
        self.disagreements = self._disagreements()

    def figures(self) -> list[list[str]]:
        """A row for each figure: its name, and its value in each run."""
        rows = []
        for key, name in FIGURES.items():
            results = [run.results or {} for run in self.runs]
            if any(found.get(key) is not None for found in results):
                rows.append([name, *(_with_interval(found, key) for found in results)])
        ends = [run.epochs[-1] if run.epochs else {} for run in self.runs]
        rows += [
            ["Test videos", *(number((run.results or {}).get("num_videos")) for run in self.runs)],
            ["Views per video", *(number((run.results or {}).get("num_views")) for run in self.runs)],
            [
                "Final training loss",
                *(number(run.epochs[-1].get("loss")) if run.epochs else "–" for run in self.runs),
            ],
            ["Epochs", *(number(end.get("epoch")) for end in ends)],
            ["Training time", *(duration(train_seconds(run.epochs)) if run.epochs else "–" for run in self.runs)],
            ["Parameters", *(amount(cost["parameters"]) if cost else "–" for cost in self.costs)],
            ["Multiply-adds per view", *(amount(cost["multiply_adds"]) if cost else "–" for cost in self.costs)],
            ["Git commit", *(_commit(run) for run in self.runs)],
        ]
        return [row for row in rows if set(row[1:]) != {"–"}]

    def settings(self) -> list[list[str]]:
        """A row for each setting that differs between the runs."""
        keys = sorted({key for run in self.runs for key in run.config} - set(_ALWAYS_DIFFERENT))
        rows = [[key, *(setting(run.config[key]) if key in run.config else "–" for run in self.runs)] for key in keys]
        return [row for row in rows if len(set(row[1:])) > 1]

    def classes(self) -> list[list[str]]:
        """A row for each class of the first run that another run has: its figure in each, largest differences first."""
        by_class = [_by_class(run.results or {}) for run in self.runs]
        names = [name for name in by_class[0] if any(name in found for found in by_class[1:])]
        spread = {}
        for name in names:
            known = [found[name] for found in by_class if found.get(name) is not None]
            spread[name] = max(known) - min(known) if len(known) > 1 else 0.0
        chosen = sorted((name for name in names if spread[name] > 0), key=lambda name: -spread[name])[:_MOST_CLASSES]
        return [[name, *(percent(found.get(name)) for found in by_class), f"{spread[name]:.1f}"] for name in chosen]

    def _disagreements(self) -> dict[int, str]:
        """The runs whose videos have other classes than the first run gives them, by index, each with the reason."""
        first, found = self.scored[0], {}
        for rank, (run, other) in list(enumerate(zip(self.runs, self.scored, strict=True)))[1:]:
            if first is None or other is None or first.multi_label != other.multi_label:
                continue
            if reason := disagreement(first, other):
                found[rank] = f"{self.runs[0].name} and {run.name} were not tested on the same labels: {reason}"
        return found

    def pairs(self) -> list[list[str]]:
        """A row for each run after the first that shares videos with it; see ``analysis.paired``."""
        rows, first = [], self.scored[0]
        for rank, (run, other) in list(enumerate(zip(self.runs, self.scored, strict=True)))[1:]:
            if first is None or other is None or first.multi_label or other.multi_label or rank in self.disagreements:
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
            _plain(["metric", *names], self.figures()),
            _plain(["setting", *names], self.settings()),
            _plain(PAIRS, self.pairs()),
            *(f"warning: {reason}" for reason in self.disagreements.values()),
        ]
        return "\n\n".join(filter(None, parts))

    def as_page(self) -> str:
        """An HTML page of the tables, with curves and classes."""
        names = [run.name for run in self.runs]
        caption = "Two runs on the same videos; the difference of top-1 accuracy is in percentage points"
        parts = [
            ("figures", "Figures", table("Figures of the runs", ["metric", *names], self.figures(), wide=True)),
            ("pairs", "The same videos", _table(caption, PAIRS, self.pairs(), note=_PAIRS_NOTE)),
            ("learning", "Learning", curves(self.runs)),
            ("views", "Views", views_chart(self.runs)),
            ("classes", "Classes", _table(_CLASSES_CAPTION, ["class", *names, "difference"], self.classes())),
            ("settings", "Settings", _settings(names, self.settings())),
        ]
        alarms = "".join(f'<p class="alarm">Could not be read: {text(reason)}</p>' for reason in self.missing)
        alarms += "".join(f'<p class="alarm">{text(reason)}</p>' for reason in self.disagreements.values())
        title = " and ".join(names) if len(names) == 2 else f"{len(names)} runs"
        return document(f"{title}: comparison", f"<h1>{text(title)} compared</h1>\n{alarms}", parts)

    def write(self, file: str | Path) -> None:
        """Write the page, complete or not at all."""
        with replacing(file) as partial:
            partial.write_text(self.as_page(), encoding="utf-8")


PAIRS = ["runs", "videos", "only first right", "only second right", "difference", "95 % interval", "p"]
_PAIRS_NOTE = (
    "The difference is second minus first, its interval a bootstrap over videos. p is of McNemar's exact test: if both "
    "runs were equally good, the probability that the videos only one of them gets right are split at least this "
    "unevenly. Neither accounts for the randomness of training: runs with two seeds may differ as much."
)
_CLASSES_CAPTION = "Classes whose figures differ, the largest differences first"


def _with_distinct_names(runs: Sequence[Run], folders: Sequence[str | Path]) -> list[Run]:
    """The runs with distinct names: where folders have the same name, with the parent folder's or with a number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = ["/".join(Path(folder).resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{name} ({rank})" for rank, name in enumerate(names, 1)]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _with_interval(results: dict, key: str) -> str:
    bounds = results.get(f"{key}_interval")
    return percent(results.get(key)) + (f" ({interval(bounds)})" if bounds else "")


def _by_class(results: dict) -> dict[str, float | None]:
    return results.get("per_class_ap") or results.get("per_class_acc") or {}


def _commit(run: Run) -> str:
    git = next((record["git"] for record in run.records.values() if record.get("git")), None)
    return str(git.get("commit"))[:12] + (" (modified)" if git.get("dirty") else "") if git else "–"


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
