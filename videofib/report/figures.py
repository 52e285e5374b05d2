"""The figures of a run as rows, tiles and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from videofib.metrics.intervals import wilson_interval
from videofib.report.markup.charts import Series, line_chart
from videofib.report.markup.html import table, text
from videofib.report.markup.numbers import amount, interval, number, percent
from videofib.report.read import Run

# key of test_results.json -> its name on the page; all are in percent
FIGURES = {
    "top1_acc": "Top-1 accuracy, videos",
    "top5_acc": "Top-5 accuracy, videos",
    "mAP": "Mean average precision",
    "mean_class_acc": "Mean class accuracy",
    "clip_top1_acc": "Top-1 accuracy, single views",
    "calibration_error": "Expected calibration error",
}


_SHORT = 10.0  # seconds, of which fractions are shown
_SHARES_OF_VIDEOS = ("top1_acc", "top5_acc")


def main_figure(results: dict) -> str:
    """The key of a test's main figure."""
    return "mAP" if "mAP" in results else "top1_acc"


def is_unlabelled(results: dict) -> bool:
    """Whether a test was of videos without labels, of which nothing is measured."""
    return results.get("labels") == "none"


def interval_of(results: dict, key: str) -> list[float] | None:
    """The 95 % interval of a figure of a test, in percent; None where it is not a share of its videos.

    It is computed from the figure, since the results of earlier versions hold an interval that has no width where all
    videos are right or all are wrong.
    """
    value, count = results.get(key), results.get("num_videos")
    if key not in _SHARES_OF_VIDEOS or value is None or not math.isfinite(value) or not count:
        return None
    return wilson_interval(round(value / 100 * count), count)


def accuracy_table(results: dict) -> str:
    """Every accuracy with its interval, where it has one."""
    rows = [
        [name, percent(results[key]), interval(interval_of(results, key))]
        for key, name in FIGURES.items()
        if results.get(key) is not None
    ]
    counted = f"{number(results.get('num_videos'))} test videos, {number(results.get('num_views'))} views of each"
    if (starts := results.get("view_starts", "spread")) != "spread":
        counted += f", TEST.VIEW_STARTS {starts}"
    if (precision := results.get("precision", "fp32")) != "fp32":
        counted += f", computed in {precision}"
    if is_unlabelled(results):
        return f"<p>No labels: {text(counted)}; test_predictions.csv has the predictions.</p>"
    return table(counted, ["metric", "value", "95 % interval"], rows, numeric=True)


def tiles(run: Run, cost: dict | None) -> str:
    """The figures that a reader looks for first."""
    shown: list[tuple[str, str, str]] = []
    if (results := run.results) and is_unlabelled(results):
        shown.append(("Test videos", number(results.get("num_videos")), "no labels"))
    elif results:
        key = main_figure(results)
        bounds = interval_of(results, key)
        note = f"95 % interval: {interval(bounds)}" if bounds else ""
        shown.append(("mAP" if key == "mAP" else "Top-1", percent(results.get(key)), note))
        if results.get("top5_acc") is not None:
            shown.append(("Top-5", percent(results["top5_acc"]), ""))
        videos = f"{number(results.get('num_views'))} views each"
        shown.append(("Test videos", number(results.get("num_videos")), videos))
    elif validation := next(iter(run.validations[::-1]), None):
        key = main_figure(validation)
        name = "mAP" if key == "mAP" else "Top-1"
        shown.append((f"{name}, validation", percent(validation.get(key)), f"epoch {validation['epoch']}"))
    if run.epochs:
        last = run.epochs[-1]
        shown.append(("Training loss", number(last.get("loss")), f"epoch {last['epoch']} of {last.get('epochs')}"))
        shown.append(("Training time", duration(train_seconds(run.epochs)), ""))
    if cost:
        views = f"{amount(cost['multiply_adds'])} multiply-adds per view"
        shown.append(("Parameters", amount(cost["parameters"]), views))
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}{f'<small>{text(note)}</small>' if note else ''}</dd></div>"
        for name, value, note in shown
    )
    return f'<dl class="tiles">{items}</dl>' if items else ""


def curves(runs: Sequence[Run]) -> str:
    """Loss, accuracy, learning rate and gradient norm over the epochs of one run, or of several."""
    named = [(run, f"{run.name}: " if len(runs) > 1 else "") for run in runs]
    multi_label = any("mAP" in line for run in runs for line in run.validations)
    loss = [Series(f"{name}training", _points(_steps(run), "loss")) for run, name in named]
    loss += [Series(f"{name}validation", _points(run.validations, "loss"), True) for run, name in named]
    if multi_label:
        accuracy = [Series(f"{name}validation", _points(run.validations, "mAP"), True) for run, name in named]
    else:
        accuracy = [Series(f"{name}validation", _points(run.validations, "top1_acc"), True) for run, name in named]
        if len(runs) == 1:
            accuracy.append(Series("training clips", _points(runs[0].epochs, "clip_top1_acc"), True))
    charts = [
        line_chart("Loss", loss, x="epoch", y="loss"),
        line_chart(
            "Mean average precision" if multi_label else "Top-1 accuracy", accuracy,
            x="epoch", y="%", lowest=0, highest=100,
        ),
        *(
            line_chart(
                title, [Series(name.removesuffix(": ") or title, _points(_steps(run), key)) for run, name in named],
                x="epoch", y=y, lowest=0,
            )
            for title, key, y in (("Learning rate", "lr", "rate"), ("Gradient norm", "grad_norm", "L2"))
        ),
    ]  # fmt: skip
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def views_chart(runs: Sequence[Run]) -> str:
    """Accuracy over the number of views, where results have ``accuracy_by_views`` [[views, top1, top5], ...]."""
    lines = []
    for run in runs:
        rows = (run.results or {}).get("accuracy_by_views") or []
        name = f"{run.name}: " if len(runs) > 1 else ""
        lines.append(Series(f"{name}top-1", [(row[0], row[1]) for row in rows], True))
        if len(runs) == 1:
            lines.append(Series("top-5", [(row[0], row[2]) for row in rows if len(row) > 2], True))
    return line_chart("Accuracy by number of views", lines, x="views", y="%")


def cost_rows(run: Run, cost: dict | None) -> list[list[str]]:
    """The cost of the model and of the run, as rows of name and figure."""
    rows = []
    if cost:
        rows.append(["Parameters", amount(cost["parameters"])])
        rows.append(["Multiply-adds per view", amount(cost["multiply_adds"])])
        if views := (run.results or {}).get("num_views"):
            rows.append([f"Multiply-adds per video, {views} views", amount(cost["multiply_adds"] * views)])
    if run.epochs:
        last = run.epochs[-1]
        memory = [line["memory_gib"] for line in run.epochs if line.get("memory_gib") is not None]
        rows.append(["Training time", duration(train_seconds(run.epochs))])
        if (speed := clips_per_second(run.epochs)) is not None:
            rows.append(["Training speed", f"{number(speed)} clips per second, over all processes"])
        if (share := time_waiting(run.epochs)) is not None:
            rows.append(["Time spent waiting for data", percent(100 * share)])
        if memory:
            rows.append(["Peak memory of process 0", f"{max(memory):.2f} GiB"])
        skipped = sum(line.get("skipped_steps") or 0 for line in run.epochs)
        replaced = sum(line.get("replaced_videos") or 0 for line in run.epochs)
        rows.append(["Skipped optimizer steps", number(skipped)])
        rows.append(["Replaced unreadable training videos", number(replaced)])
        rows.append(["Epochs", f"{number(last['epoch'])} of {number(last.get('epochs'))}"])
    return rows


def train_seconds(epochs: Sequence[dict]) -> float | None:
    """The time of all epochs together, without validation; None where no epoch has it."""
    known = [line["seconds"] for line in epochs if line.get("seconds") is not None]
    return sum(known) if known else None


def clips_per_second(epochs: Sequence[dict]) -> float | None:
    """All clips over all the time of the epochs whose speed is known; None where there are none."""
    return _total_over_total(epochs, "clips_per_second")


def time_waiting(epochs: Sequence[dict]) -> float | None:
    """The fraction of the time of all epochs that was spent waiting for data; None where it is not known."""
    return _total_over_total(epochs, "data_wait")


def _total_over_total(epochs: Sequence[dict], rate: str) -> float | None:
    """A rate per second of all epochs: not the mean of theirs, since a slow epoch takes longer than a fast one."""
    timed = [(line[rate], line["seconds"]) for line in epochs if line.get(rate) is not None and line.get("seconds")]
    return sum(value * seconds for value, seconds in timed) / sum(seconds for _, seconds in timed) if timed else None


def duration(seconds: float | None) -> str:
    """``1 h 03 min``, ``4 min 20 s``, ``48 s`` or ``0.2 s``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < _SHORT:
        return f"{number(round(seconds, 1) or seconds)} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _steps(run: Run) -> Sequence[dict]:
    return run.steps or run.epochs


def _points(lines: Sequence[dict], key: str) -> list[tuple[float, float | None]]:
    return [(line["at"], line[key]) for line in lines if key in line]
