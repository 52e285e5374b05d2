"""The figures of a run as rows, tiles and charts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from videofib.report.charts import Series, line_chart
from videofib.report.html import amount, interval, number, percent, table, text
from videofib.report.read import Run

# key of test_results.json -> what a person calls it; all are in percent
FIGURES = {
    "top1_acc": "Top-1 accuracy, videos",
    "top5_acc": "Top-5 accuracy, videos",
    "mAP": "Mean average precision",
    "mean_class_acc": "Mean of the classes' accuracies",
    "clip_top1_acc": "Top-1 accuracy, single clips",
    "calibration_error": "Expected calibration error",
}


def main_figure(results: dict) -> str:
    """The key of the figure that a test is judged by."""
    return "mAP" if "mAP" in results else "top1_acc"


def accuracy_table(results: dict) -> str:
    """Every accuracy with its interval, where it has one."""
    rows = [
        [name, percent(results[key]), interval(results.get(f"{key}_interval"))]
        for key, name in FIGURES.items()
        if results.get(key) is not None
    ]
    counted = f"{number(results.get('num_videos'))} videos, {number(results.get('num_views'))} views of each"
    return table(f"Accuracy over {counted}", ["figure", "value", "95 % interval"], rows, numeric=True)


def tiles(run: Run, cost: dict | None) -> str:
    """The few figures that one looks for first."""
    shown: list[tuple[str, str, str]] = []
    if results := run.results:
        key = main_figure(results)
        bounds = results.get(f"{key}_interval")
        shown.append(
            ("mAP" if key == "mAP" else "Top-1", percent(results.get(key)), interval(bounds) if bounds else "")
        )
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
        views = f"{amount(cost['multiply_adds'])} multiply-adds a view"
        shown.append(("Parameters", amount(cost["parameters"]), views))
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}{f'<small>{text(note)}</small>' if note else ''}</dd></div>"
        for name, value, note in shown
    )
    return f'<dl class="tiles">{items}</dl>' if items else ""


def curves(runs: Sequence[Run]) -> str:
    """Loss, accuracy, learning rate and gradient norm over the epochs of one run, or of several."""
    named = [(run, f"{run.name}: " if len(runs) > 1 else "") for run in runs]
    several = any("mAP" in line for run in runs for line in run.validations)
    loss = [Series(f"{name}training", _points(_steps(run), "loss")) for run, name in named]
    loss += [Series(f"{name}validation", _points(run.validations, "loss"), True) for run, name in named]
    if several:
        accuracy = [Series(f"{name}validation", _points(run.validations, "mAP"), True) for run, name in named]
    else:
        accuracy = [Series(f"{name}validation", _points(run.validations, "top1_acc"), True) for run, name in named]
        if len(runs) == 1:
            accuracy.append(Series("training, single clips", _points(runs[0].epochs, "clip_top1_acc"), True))
    charts = [
        line_chart("Loss", loss, x="epoch", y="loss"),
        line_chart(
            "Mean average precision" if several else "Top-1 accuracy", accuracy, x="epoch", y="%", lowest=0, highest=100
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
    """Accuracy over the number of views, where a test has told it: ``accuracy_by_views`` [[views, top1, top5], ...]."""
    lines = []
    for run in runs:
        rows = (run.results or {}).get("accuracy_by_views") or []
        name = f"{run.name}: " if len(runs) > 1 else ""
        lines.append(Series(f"{name}top-1", [(row[0], row[1]) for row in rows], True))
        if len(runs) == 1:
            lines.append(Series("top-5", [(row[0], row[2]) for row in rows if len(row) > 2], True))
    chart = line_chart("Accuracy by number of views", lines, x="views", y="%")
    return chart


def cost_rows(run: Run, cost: dict | None) -> list[list[str]]:
    """What the run took, as rows of name and figure."""
    rows = []
    if cost:
        rows.append(["Parameters", amount(cost["parameters"])])
        rows.append(["Multiply-adds of a view", amount(cost["multiply_adds"])])
        if views := (run.results or {}).get("num_views"):
            rows.append([f"Multiply-adds of a video, {views} views", amount(cost["multiply_adds"] * views)])
    if run.epochs:
        last = run.epochs[-1]
        waits = [line["data_wait"] for line in run.epochs if line.get("data_wait") is not None]
        speeds = [line["clips_per_second"] for line in run.epochs if line.get("clips_per_second") is not None]
        memory = [line["memory_gib"] for line in run.epochs if line.get("memory_gib") is not None]
        rows.append(["Training time", duration(train_seconds(run.epochs))])
        if speeds:
            rows.append(["Training speed", f"{number(sum(speeds) / len(speeds))} clips a second, over all processes"])
        if waits:
            rows.append(["Waiting for data", percent(100 * sum(waits) / len(waits))])
        if memory:
            rows.append(["Peak memory of the first process", f"{max(memory):.2f} GiB"])
        skipped = sum(line.get("skipped_steps") or 0 for line in run.epochs)
        replaced = sum(line.get("replaced_videos") or 0 for line in run.epochs)
        rows.append(["Optimizer steps skipped", number(skipped)])
        rows.append(["Unreadable training videos replaced", number(replaced)])
        rows.append(["Epochs", f"{number(last['epoch'])} of {number(last.get('epochs'))}"])
    return rows


def train_seconds(epochs: Sequence[dict]) -> float:
    """Of all epochs together, validation not counted."""
    return sum(line.get("seconds") or 0.0 for line in epochs)


def duration(seconds: float) -> str:
    """``1 h 03 min``, ``4 min 20 s`` or ``8 s``."""
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _steps(run: Run) -> Sequence[dict]:
    return run.steps or run.epochs


def _points(lines: Sequence[dict], key: str) -> list[tuple[float, float | None]]:
    return [(line["at"], line[key]) for line in lines if key in line]
