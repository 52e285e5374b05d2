"""The drill of a run's folder that is damaged, or comes from a stranger.

    python -m tests.faults.run_folders --flips 300

trains and tests a tiny model, changes its folder in many ways (a table of small changes, then random flips of bits
and cuts of each file) and runs ``videofib report``, ``compare`` and ``ensemble`` on each. Each must end in time,
with a page or with one line. Where a part could not be used, the line or the page names the file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pyarrow
from fvcore.common.config import CfgNode
from pyarrow import parquet

from tests.experiment import run, write
from tests.faults.limits import HungError, limited
from tests.faults.verdict import failed, report
from videofib.commands.compare import main as compare
from videofib.commands.ensemble import main as ensemble
from videofib.commands.report import main as report_command
from videofib.run import reporting

SECONDS = 60  # that a command may take
TOGETHER = 10  # changed folders in one comparison; each is compared alone where this does not end with a page
RESULTS, SCORES, STATS = "test_results.json", "test_scores.parquet", "stats.jsonl"
FILES = (RESULTS, SCORES, STATS, "config.yaml", "environment.json")
Change = Callable[[Path], object]


def content(name: str, new: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(new.encode() if isinstance(new, str) else new)


def value(name: str, key: str, new: object) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, key: new}))

    return change


def raw_value(name: str, key: str, new: str) -> Change:
    return lambda folder: (folder / name).write_text(f'{{"{key}": {new}}}')


def line(new: str | bytes) -> Change:
    def change(folder: Path) -> None:
        with (folder / STATS).open("ab") as file:
            file.write((new.encode() if isinstance(new, str) else new) + b"\n")

    return change


def instead(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def about(**changes: object) -> Change:
    def change(folder: Path) -> None:
        table = parquet.read_table(folder / SCORES)
        found = {**json.loads(table.schema.metadata[b"videofib"]), **changes}
        parquet.write_table(table.replace_schema_metadata({b"videofib": json.dumps(found)}), folder / SCORES)

    return change


def column(name: str, make: Callable[[pyarrow.Table], object]) -> Change:
    def change(folder: Path) -> None:
        table = parquet.read_table(folder / SCORES)
        position = table.column_names.index(name)
        parquet.write_table(table.set_column(position, name, make(table)), folder / SCORES)

    return change


def floats(number: float) -> Callable[[pyarrow.Table], object]:
    def make(table: pyarrow.Table) -> object:
        rows = [row and [number] * len(row) for row in table["scores"].to_pylist()]
        return pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))

    return make


DEEP = "[" * 100_000 + "]" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
EPOCH = '{"_type": "train_epoch", "epoch": 3, "epochs": 3, '
KINDS = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link out": lambda path: path.symlink_to("/etc/hostname"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "empty": lambda path: path.touch(),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(4096)),
}
CHANGES: dict[str, Change] = {f"{name} is {kind}": instead(name, KINDS[kind]) for name in FILES for kind in KINDS}
CHANGES |= {
    f"{RESULTS}: {key} {new!r}": value(RESULTS, key, new)
    for key, new in [
        *(("top1_acc", new) for new in ("99", [99], {"a": 1}, 1e9, -1, True, 10**400)),
        *(("num_videos", new) for new in ("6", -6, 1.5, 10**30, [])),
        *(("num_views", new) for new in ("6", {}, -1)),
        *(("num_crops", new) for new in ("3", [])),
        *(("per_class_acc", new) for new in ([1, 2], {"red": "x"}, {"red": 1e9}, "red")),
        *(("per_class_videos", new) for new in ([1], {"red": -1}, {"red": "2"})),
        *(("accuracy_by_views", new) for new in ("x", [1], [[1]], [[None, 1, 1]], [["1", "2", "3"]], {"a": 1})),
        *(("skipped", new) for new in ("x", [1], [{"video": 1}], [{"video": "a", "reason": 7}], {"a": 1})),
        *(("view_starts", new) for new in (1, [])),
        *(("videos_sha256", new) for new in (1, {})),
        *(("checkpoint", new) for new in (["a"], {"a": 1})),
    ]
}
CHANGES |= {
    f"{RESULTS}: infinite": raw_value(RESULTS, "top1_acc", "Infinity"),
    f"{RESULTS}: 1e400": raw_value(RESULTS, "top1_acc", "1e400"),
    f"{RESULTS}: 5,000 digits": raw_value(RESULTS, "top1_acc", "9" * 5000),
    f"{RESULTS}: nested": raw_value(RESULTS, "top1_acc", DEEP),
    f"{RESULTS}: a list": content(RESULTS, "[1]"),
    f"{STATS}: binary": line(b"\xff\x00\x80"),
    f"{STATS}: half a line": line(EPOCH),
    f"{STATS}: nested": line(DEEP),
    f"{STATS}: a long line": line("1" * 1_000_000),
    f"{STATS}: epochs as text": line('{"_type": "train_epoch", "epoch": "3"}'),
    **{
        f"{STATS}: {key} {new}": line(f'{EPOCH}"{key}": {new}}}')
        for key, new in [
            *(("loss", new) for new in ('"a"', "[1]", "1e400", "9" * 400, "true")),
            *(("seconds", new) for new in ('"a"', "-5", "{}")),
            *(("clips_per_second", new) for new in ('"a"', "[]")),
            *(("memory_gib", new) for new in ('"a"', "1e300")),
            *(("skipped_steps", new) for new in ('"a"', "[]", "1.5")),
            *(("clip_top1_acc", new) for new in ("1e9", '"a"')),
        ]
    },
    "config.yaml: a bomb": content("config.yaml", BOMB),
    "config.yaml: nested": content("config.yaml", "A: " + DEEP),
    "config.yaml: a list": content("config.yaml", "- 1\n"),
    "config.yaml: a tag": content("config.yaml", "A: !!python/object/apply:os.system [exit 3]\n"),
    "config.yaml: other types": content("config.yaml", "TEST: 7\nDATA: {NUM_FRAMES: [a], TEST_CROP_SIZE: {a: 1}}\n"),
    "config.yaml: digits": content("config.yaml", f"DATA: {{NUM_FRAMES: {'9' * 5000}}}\n"),
    "environment.json: started": value("environment.json", "started", {"a": 1}),
    "environment.json: git": value("environment.json", "git", [1]),
    "environment.json: packages": value("environment.json", "packages", ["torch"]),
    "environment.json: nested": raw_value("environment.json", "cpu", DEEP),
    f"{SCORES}: no metadata": lambda folder: parquet.write_table(pyarrow.table({"a": [1]}), folder / SCORES),
    f"{SCORES}: inf": column("scores", floats(float("inf"))),
    f"{SCORES}: nan": column("scores", floats(float("nan"))),
    f"{SCORES}: 7": column("scores", floats(7.0)),
    f"{SCORES}: label": column("label", lambda table: pyarrow.array([9] * len(table), pyarrow.int32())),
    f"{SCORES}: twice": column("video_id", lambda table: pyarrow.array(["a"] * len(table))),
    f"{SCORES}: paths": column("path", lambda table: pyarrow.array(["/etc/passwd"] * len(table))),
    f"{SCORES}: no rows": lambda folder: parquet.write_table(
        parquet.read_table(folder / SCORES).slice(0, 0), folder / SCORES
    ),
    f"{SCORES}: num_classes": about(num_classes=10**12),
    f"{SCORES}: num_views": about(num_views="x"),
    f"{SCORES}: class names": about(class_names=[["red"], 1, None]),
    f"{SCORES}: huge metadata": about(more="x" * 10_000_000),
}
SILENT = {"huge metadata"}  # changes of what is not read


def flipped(name: str, seed: int, folder: Path) -> None:
    """Flip a bit of a file, or cut it off."""
    rng, found = random.Random(f"{name} {seed}"), bytearray((folder / name).read_bytes())
    position = rng.randrange(len(found))
    if seed % 4:
        found[position] ^= 1 << rng.randrange(8)
    else:
        del found[position:]
    (folder / name).write_bytes(found)


def drill(intact: Path, work: Path, changes: dict[str, Change]) -> dict:
    """Run the commands on a changed copy of a run's folder for each change; returns what was found."""
    found: dict[str, list[str]] = {"page": [], "refused": [], "traceback": [], "hung": [], "silent": []}
    names = list(changes)
    with _each_cost_once():
        for start in range(0, len(names), TOGETHER):
            folders = {}
            for number, name in enumerate(names[start : start + TOGETHER]):
                folders[name] = work / f"changed {number}"
                shutil.copytree(intact, folders[name], ignore=shutil.ignore_patterns("checkpoints", "report.html"))
                changes[name](folders[name])
            together, _ = _compare([intact, *folders.values()])
            for name, folder in folders.items():
                _run(name, intact, folder, together == "page", found)
                shutil.rmtree(folder)
    return {
        "folders": len(changes),
        **{outcome: len(names) for outcome, names in found.items()},
        "examples": [*found["traceback"], *found["hung"], *found["silent"]][:20],
    }


def _run(name: str, intact: Path, folder: Path, compared: bool, found: dict[str, list[str]]) -> None:
    """Run the commands on a folder with the change of this name, and add to what was found.

    ``compared``: it has been compared among others, with a page; it is compared alone where no other command names the
    changed file, since only then is it known of which folder the page speaks.
    """

    def add(outcome: str, printed: str) -> str:
        found[outcome].append(f"{name}: {printed.strip()[-200:]}" if outcome in ("traceback", "hung") else name)
        return printed

    said = add(*_outcome(partial(report_command, [str(folder)])))
    if (folder / "report.html").is_file():
        said += (folder / "report.html").read_text(encoding="utf-8")
    if name.startswith(SCORES):
        said += add(*_outcome(partial(ensemble, [str(path / SCORES) for path in (intact, folder)])))
    file = name.split(":")[0].split(" ")[0]
    must_say = not name.startswith("random") and name.split(": ")[-1] not in SILENT
    if compared and (file in said or not must_say):
        add("page", "")
    else:
        said += add(*_compare([intact, folder]))
    if must_say and file not in said:
        found["silent"].append(name)


def _compare(folders: list[Path]) -> tuple[str, str]:
    return _outcome(partial(compare, [*map(str, folders), "--out", str(folders[-1] / "compared.html")]))


@contextlib.contextmanager
def _each_cost_once() -> Iterator[None]:
    """Count the cost of each config's model once: most changes leave the config alone, and little takes as long."""
    count, known = reporting.model_cost, {}

    def counted(cfg: CfgNode) -> dict:
        if str(cfg) not in known:
            known[str(cfg)] = count(cfg)
        return known[str(cfg)]

    with patch.object(reporting, "model_cost", counted):
        yield


def _outcome(command: Callable[[], None]) -> tuple[str, str]:
    """``page``, ``refused`` (in one line), ``traceback`` or ``hung``, and what was printed."""
    printed = io.StringIO()
    try:
        with limited(SECONDS), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            command()
        return "page", printed.getvalue()
    except SystemExit as end:
        is_line = isinstance(end.code, str) and end.code.isprintable() and len(end.code) < 2000
        return "refused" if is_line else "traceback", f"{printed.getvalue()} {end.code}"
    except HungError as error:
        return "hung", str(error)
    except Exception as error:  # what the drill looks for
        return "traceback", f"{type(error).__name__}: {error}"


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    return failed(found, true=("folders", "refused", "page"), equal={"traceback": 0, "hung": 0, "silent": 0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300, help="random flips and cuts of each file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        data, folder = Path(out) / "data", Path(out) / "run"
        data.mkdir()
        write(data)
        run(data, folder)
        damages = {f"random {name} {n}": partial(flipped, name, n) for name in FILES for n in range(args.flips)}
        found = drill(folder, Path(out), {**CHANGES, **damages})
    report(found, wrong(found))


if __name__ == "__main__":
    main()
