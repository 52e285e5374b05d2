"""Several runs side by side: curves, figures, settings and classes that differ, and paired tests on the same videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videofib.files import replacing
from videofib.metrics.scores import SCORES_NAME
from videofib.printable import printable
from videofib.report.alike import relabelled, unlike_tests
from videofib.report.analysis import paired
from videofib.report.figures import (
    FIGURES,
    clips_per_second,
    curves,
    duration,
    interval_of,
    train_seconds,
    views_chart,
)
from videofib.report.markup.html import document, setting, table, text
from videofib.report.markup.numbers import amount, interval, number, percent, points, probability
from videofib.report.read import ReportError, Run, read_run
from videofib.report.scored_videos import ScoredVideos, read_scored_videos

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
        self.missing = [f"{run.name}: {reason}" for run in self.runs for reason in run.missing]
        self.scored = [read_scored_videos(folder, self.missing) for folder in folders]
        self.warnings = unlike_tests(self.runs, self.scored)

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
            [
                "Final validation loss",
                *(number(run.validations[-1].get("loss")) if run.validations else "–" for run in self.runs),
            ],
            ["Epochs", *(number(end.get("epoch")) for end in ends)],
            ["Training time", *(duration(train_seconds(run.epochs)) for run in self.runs)],
            ["Training speed, clips per second", *(number(clips_per_second(run.epochs)) for run in self.runs)],
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
        """A row for each class whose figure is another than in the first run, the largest differences first.

        It has the class's videos in each run, its figure in each, and each later run's figure minus the first one's.
        """
        first, *others = [_by_class(run.results or {}) for run in self.runs]
        differences = {
            name: [found[name] - value if found.get(name) is not None else None for found in others]
            for name, value in first.items()
            if value is not None
        }
        largest = {
            name: max([abs(d) for d in found if d is not None], default=0) for name, found in differences.items()
        }
        chosen = sorted((name for name, size in largest.items() if size > 0), key=lambda name: -largest[name])
        return [
            [
                name,
                self._videos_of(name),
                *(percent(found.get(name)) for found in (first, *others)),
                *map(points, differences[name]),
            ]
            for name in chosen[:_MOST_CLASSES]
        ]

    def class_columns(self) -> list[str]:
        """The header of ``classes``."""
        first, *others = [run.name for run in self.runs]
        return ["class", "videos", first, *others, *(f"{name} − {first}, points" for name in others)]

    def _videos_of(self, class_name: str) -> str:
        """How many test videos a class has; several numbers where the runs were tested on other videos."""
        counts = [((run.results or {}).get("per_class_videos") or {}).get(class_name) for run in self.runs]
        return " / ".join(dict.fromkeys(number(count) for count in counts if count is not None)) or "–"

    def pairs(self) -> list[list[str]]:
        """A row for each run with videos of the same classes in common with the first; see ``analysis.paired``."""
        rows, first = [], self.scored[0]
        for run, other in zip(self.runs[1:], self.scored[1:], strict=True):
            if self._why_unpaired(run, other):
                continue
            found = paired(first, other)
            rows.append(
                [
                    f"{self.runs[0].name}, {run.name}",
                    number(found["videos"]),
                    number(found["first_only"]),
                    number(found["second_only"]),
                    points(found["difference"]),
                    " to ".join(map(points, found["interval"])),
                    probability(found["p_value"]),
                ]
            )
        return rows

    def unpaired(self) -> list[str]:
        """For each run without a row in ``pairs``, a sentence that gives the reason."""
        others = zip(self.runs[1:], self.scored[1:], strict=True)
        return [
            f"{self.runs[0].name} and {run.name} are not compared video by video: {reason}"
            for run, scored in others
            if (reason := self._why_unpaired(run, scored))
        ]

    def _why_unpaired(self, run: Run, other: ScoredVideos | None) -> str:
        """Why a run cannot be paired with the first, or nothing."""
        first, name = self.scored[0], self.runs[0].name
        if first is None or other is None:
            without = [known for known, scored in ((name, first), (run.name, other)) if scored is None]
            return f"no usable {SCORES_NAME} of {' and '.join(without)}"
        if several := [known for known, scored in ((name, first), (run.name, other)) if scored.multi_label]:
            return f"videos may have several classes in {' and '.join(several)}"
        if not set(first.ids) & set(other.ids):
            return "they have no test videos in common"
        changed = relabelled(first, other)
        return f"{number(len(changed))} of the videos in both have other classes" if changed else ""

    def as_text(self) -> str:
        """The tables as plain text, for a terminal."""
        names = [run.name for run in self.runs]
        parts = [
            "\n".join(
                f"warning: {printable(sentence)}"
                for sentence in (*(f"could not be read: {reason}" for reason in self.missing), *self.warnings)
            ),
            _plain(["metric", *names], self.figures()),
            _plain(["setting", *names], self.settings()),
            _plain(PAIRS, self.pairs()),
            "\n".join(map(printable, self.unpaired())),
            _plain(self.class_columns(), self.classes()),
        ]
        return "\n\n".join(filter(None, parts))

    def as_page(self) -> str:
        """An HTML page of the tables, with curves and classes."""
        names = [run.name for run in self.runs]
        caption = "Two runs on the same videos: top-1 accuracy"
        unpaired = "".join(f"<p>{text(sentence)}</p>" for sentence in self.unpaired())
        parts = [
            ("figures", "Figures", table("Figures of the runs", ["metric", *names], self.figures(), wide=True)),
            ("pairs", "The same videos", _table(caption, PAIRS, self.pairs(), note=_PAIRS_NOTE) + unpaired),
            ("learning", "Learning", curves(self.runs)),
            ("views", "Views", views_chart(self.runs)),
            ("classes", "Classes", _table(_CLASSES_CAPTION, self.class_columns(), self.classes())),
            ("settings", "Settings", _settings(self.runs, self.settings())),
        ]
        alarms = "".join(f'<p class="alarm">Could not be read: {text(reason)}</p>' for reason in self.missing)
        alarms += _warnings(self.warnings)
        title = " and ".join(names) if len(names) == 2 else f"{len(names)} runs"
        return document(f"{title}: comparison", f"<h1>{text(title)} compared</h1>\n{alarms}", parts)

    def write(self, file: str | Path) -> None:
        """Write the page, complete or not at all."""
        with replacing(file) as partial:
            partial.write_text(self.as_page(), encoding="utf-8")


PAIRS = [
    *("first, second run", "videos", "only first right", "only second right"),
    *("second − first, points", "95 % interval, points", "p"),
]
_PAIRS_NOTE = (
    "The interval of the difference is Tango's (1998). p is of McNemar's exact test: if both "
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
    bounds = interval_of(results, key)
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


def _warnings(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<div class="alarm" role="alert"><p>The runs were not tested alike:</p><ul>{items}</ul></div>'


def _settings(runs: Sequence[Run], rows: Sequence[Sequence[str]]) -> str:
    if not any(run.config for run in runs):
        return "<p>No run has a config.</p>"
    if not rows:
        return "<p>No setting differs.</p>"
    return table("Settings that differ", ["key", *(run.name for run in runs)], rows, wide=True)


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    rows = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
