"""The drill of names that are not what they seem: every command on a data set whose names command the terminal.

    python -m tests.faults.hostile_names

writes folders of classes, videos, checkpoints and run folders whose names hold escape sequences (colours, a cleared
screen, links, the clipboard), line ends of every kind, reversed writing, bytes that are not UTF-8 and markup, and runs
all commands on them to the end, and on mistakes that repeat such a name. What reaches the terminal, log files, lists
and pages must be harmless: no raw control character, no line of the attacker's, no markup.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
import yaml

from tests.experiment import CONFIG, newest
from tests.faults.verdict import failed, report
from videofib import cli
from videofib.prep.encode import write_video
from videofib.printable import printable
from videofib.tracking.log import close_logging

# What a name does to a terminal, a log or a page that shows it raw. FORGED must never begin a line.
SEQUENCES = {
    "colour": "\x1b[31mred",
    "clears": "\x1b[2J\x1b[H",
    "rings": "\x07\x08",
    "link": "\x1b]8;;http:x.test\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "csi": "\x9b31m",
    "backwards": "gpj\u202eexe",
    "unseen": "a\u200bb\ufeff",
    "bytes": "caf\udce9\udc9b31m",
    "markup": "<img src=x onerror=FORGED()>\"'<b>",
}
LINE_ENDS = {f"end{ord(end[0]):x}": f"a{end}FORGED" for end in (*"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\r\n")}
EVIL = "".join([*SEQUENCES.values(), *LINE_ENDS.values()])
CRASHED = -1  # the status of a command that ends with a traceback
TEXTS = {".txt", ".log", ".json", ".jsonl", ".yaml", ".html"}  # files that people read; not lists, which name files


class Drill:
    """Runs commands in a folder of its own; ``problems`` has a line for all that should not have been printed."""

    def __init__(self, out: Path):
        self.out, self.problems, self.count = out, [], 0

    def run(self, *words: object, code: int | None = 0) -> str:
        """Run ``videofib WORDS``, which must end with that status (None: any), and look at all that it prints."""
        self.count += 1
        with _printed_to(self.out / "printed"):
            found = _call([os.fsdecode(str(word)) for word in words])
        printed = (self.out / "printed").read_bytes()
        what = printable(" ".join(str(word) for word in words[:2]))
        self.look(what, printed)
        text = printed.decode(errors="backslashreplace")
        if found != code and (code is not None or found == CRASHED):
            last = (text.strip() or "nothing").splitlines()[-1]
            self.problems.append(f"{what} ended with {found}: {printable(last)[-300:]}")
        return text

    def look(self, what: str, content: bytes) -> None:
        """Note what is not harmless in a text."""
        try:
            lines = content.decode().split("\n")
        except UnicodeDecodeError as error:
            self.problems.append(f"{what}: not UTF-8 at {content[error.start - 60 : error.start + 20]!r}")
            return
        for line in lines:
            if printable(line) != line:
                self.problems.append(f"{what}: {line[:300]!r}")
            if line.startswith("FORGED"):
                self.problems.append(f"{what}: a line of the attacker's")

    def look_at_files(self) -> None:
        """Note what is not harmless in the files that the commands have written for people."""
        for path in sorted(self.out.rglob("*")):
            lists = path.name == "classes.txt" or path.parent.name == "annotations"
            if path.suffix not in TEXTS or lists or not path.is_file():
                continue
            name = printable(path.relative_to(self.out))[-80:]
            content = path.read_bytes()
            self.look(name, content)
            if path.suffix == ".html" and (markup := _foreign_markup(content.decode())):
                self.problems.append(f"{name}: {markup}")


class _Markup(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = ""

    def handle_starttag(self, tag, attrs):
        if any(name == "onerror" or (name == "src" and value == "x") for name, value in attrs):
            self.found = f"<{tag} {attrs}> of a name"


def _foreign_markup(page: str) -> str:
    parser = _Markup()
    parser.feed(page)
    return parser.found


def _call(words: Sequence[str]) -> int:
    try:
        cli.main(words)
    except SystemExit as end:
        if isinstance(end.code, str):  # as the interpreter does it
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return CRASHED
    finally:
        close_logging()
    return 0


@contextlib.contextmanager
def _printed_to(file: Path) -> Iterator[None]:
    """All that this process and those that it starts write to stdout and stderr goes into a file.

    As for a process whose output is a file, stdout refuses what UTF-8 cannot hold, and stderr escapes it.
    """
    sys.stdout.flush(), sys.stderr.flush()
    before, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    file.unlink(missing_ok=True)
    with file.open("ab", buffering=0) as target:  # several processes append
        os.dup2(target.fileno(), 1), os.dup2(target.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        try:
            yield
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            sys.stdout, sys.stderr = streams
            for number, descriptor in enumerate(before, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def clip(path: Path, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path.with_name("clip.mp4"), frames, 25)  # a name that the encoder takes
    path.with_name("clip.mp4").rename(path)


def write_classes(root: Path, classes: Sequence[str], files: Sequence[str]) -> None:
    """One folder a class, with a video of each of these names, and one that is no video."""
    for number, name in enumerate(classes):
        for place, file in enumerate(files):
            clip(root / name / f"{file}.mp4", 100 * number + place)
    (root / classes[0] / f"broken {files[0]}.mp4").write_text("no video")


def drill(out: Path) -> dict:
    """Run all commands; returns what was found."""
    it = Drill(out)
    raw, data, classes = out / "raw", out / f"data {SEQUENCES['colour']}", sorted(SEQUENCES.values())
    files = [*SEQUENCES.values(), *LINE_ENDS.values()]
    write_classes(raw / "train", classes, files[::5])
    write_classes(raw / "valid", classes, files[1::5])
    for name, end in LINE_ENDS.items():
        clip(out / "ends" / name / f"class {end}" / "a.mp4", 0)
        it.run("prep", "folder", "--videos", out / "ends" / name, "--out", out / "refused", code=1)
    preparing(it, raw, data)
    training(it, raw, data, classes)
    mistakes(it, data)
    it.look_at_files()
    names = (data / "classes.txt").read_text(errors="surrogateescape").splitlines()
    return {
        "commands": it.count,
        "refused_before_writing": not (out / "refused").exists(),
        "as_many_lines_as_classes": names == classes,
        "harmful": len(it.problems),
        "examples": [printable(problem) for problem in dict.fromkeys(it.problems)][:40],
    }


def preparing(it: Drill, raw: Path, data: Path) -> None:
    """Preparation, a second one with nothing to do, and what is done with a prepared folder, intact and damaged."""
    for words in ([], [], ["--codec", "copy"]):
        it.run("prep", "folder", "--videos", raw, "--out", data, "--jobs", 2, *words)
    it.run("prep", "verify", data)
    it.run("prep", "leaks", data)
    it.run("prep", "shards", data, "--out", it.out / f"shards {SEQUENCES['clears']}")
    it.run("prep", "motion", "--out", it.out / f"motion {EVIL[:90]}", "--train-per-class", 1, "--test-per-class", 1)
    damaged = it.out / f"damaged {LINE_ENDS['end2028']}"
    shutil.copytree(data, damaged)
    first = next(path for path in sorted((damaged / "videos").rglob("*.mp4")))
    first.rename(first.with_name(f"new {LINE_ENDS['enda']}.mp4"))
    (damaged / "classes.txt").open("a").write("more\n")
    (damaged / "val.csv").open("a").write(f"{SEQUENCES['clipboard']} {LINE_ENDS['endc']}\n")
    it.run("prep", "verify", damaged, code=1)
    journal = damaged / "journal.jsonl"
    journal.write_text(journal.read_text().replace("videos/", f"videos/{EVIL[:9]!r}"[:-1]))
    it.run("prep", "folder", "--videos", raw, "--out", damaged, "--jobs", 2)


def training(it: Drill, raw: Path, data: Path, classes: Sequence[str]) -> None:
    """From lists, shards and bare folders to checkpoints, results and pages."""
    config = it.out / "config.yaml"
    content = {**CONFIG, "MODEL": {"NUM_CLASSES": len(classes)}}
    content["TEST"] = {**CONFIG["TEST"], "NUM_ENSEMBLE_VIEWS": 1, "NUM_SPATIAL_CROPS": 1}
    config.write_text(yaml.safe_dump(content))
    shutil.copytree(raw, bare := it.out / "bare", symlinks=True)
    (bare / "test").symlink_to("valid")
    runs = {}
    for name, folder in {"lists": data, "shards": it.out / f"shards {SEQUENCES['clears']}", "bare": bare}.items():
        runs[name] = it.out / f"run {name} {SEQUENCES['link' if name == 'lists' else 'bytes']}"
        of_run = ["--cfg", config, "OUTPUT_DIR", runs[name], "DATA.PATH_TO_DATA_DIR", folder]
        it.run("run" if name == "lists" else "train", *of_run, "DATA_LOADER.NUM_WORKERS", 1)
        it.run("test", *of_run, "OUTPUT_DIR", it.out / f"test {name}", "TEST.CHECKPOINT_FILE_PATH", newest(runs[name]))
        it.run("browse", "--cfg", config, "--num", 3, "--out", it.out / f"browse {SEQUENCES['rings']}", *of_run[4:])
    scores = [it.out / f"test {name}" / "test_scores.parquet" for name in ("lists", "shards")]
    it.run("report", runs["lists"], "--data", data)
    it.run("compare", runs["lists"], runs["bare"], "--out", it.out / f"compared {SEQUENCES['csi']}.html")
    it.run("ensemble", *scores, "--out", it.out / f"ensemble {SEQUENCES['bytes']}")
    it.run("profile", "--cfg", config)
    checkpoint = it.out / f"weights {EVIL[:60]}.pyth"
    shutil.copy(newest(runs["lists"]), checkpoint)
    target = it.out / f"converted {SEQUENCES['clears']}"
    of_model = ["--cfg", config, "--weights", checkpoint, "--to", "huggingface", "--remote-code", "--out", target]
    it.run("convert", *of_model, "DATA.PATH_TO_DATA_DIR", data)
    it.run("convert", *of_model[:3], target, *of_model[4:6], "--out", it.out / "again", code=None)
    foreign_checkpoints(it, config, data, checkpoint)


def foreign_checkpoints(it: Drill, config: Path, data: Path, checkpoint: Path) -> None:
    """Weights whose tensors, settings and classes have such names, and classes of which the data set has others."""
    plain = torch.load(checkpoint, weights_only=True)
    names = [f"{EVIL}{number}" for number in range(len(SEQUENCES))]
    state = {f"{EVIL}.{name}": value for name, value in list(plain["model_state"].items())[:3]}
    changed = {
        "tensors": {"model_state": {**plain["model_state"], **state}},
        "classes": {"classes": ["".join(name.splitlines()) for name in names]},
        "lines": {"classes": names},
        "settings": {"config": yaml.safe_dump({"MODEL": {"NUM_CLASSES": EVIL}})},
        "input": {"input": {EVIL: EVIL}},
        "epoch": {"epoch": EVIL},
        "optimizer": {"optimizer_state": {"state": {EVIL: {EVIL: EVIL}}, "param_groups": [{"params": [EVIL]}]}},
    }
    for name, change in changed.items():
        file = it.out / f"foreign {name}.pyth"
        torch.save({**plain, **change}, file)
        it.run("convert", "--cfg", config, "--weights", file, "--to", "official", "--out", it.out / "out", code=None)
        of_run = ["--cfg", config, "OUTPUT_DIR", it.out / f"run foreign {name}", "DATA.PATH_TO_DATA_DIR", data]
        it.run("test", *of_run, "TEST.CHECKPOINT_FILE_PATH", file, code=None)
        it.run("train", *of_run, "TRAIN.CHECKPOINT_FILE_PATH", file, "SOLVER.MAX_EPOCH", 1, code=None)
    torch.save({EVIL: torch.zeros(3), "head.weight": torch.zeros(2, 2)}, it.out / "other.pyth")
    it.run("convert", "--cfg", config, "--weights", it.out / "other.pyth", "--to", "official", "--out", "o", code=None)


def mistakes(it: Drill, data: Path) -> None:
    """Paths, keys, values and options that are wrong and repeat such a name."""
    config, other = it.out / "config.yaml", it.out / f"other {EVIL[:60]}.yaml"
    other.write_text(yaml.safe_dump({"MODEL": {EVIL: 1}}))
    for words in (["--num", EVIL], ["--split", EVIL], [f"--{EVIL}"], ["--draws", "0"]):
        it.run("browse", "--cfg", config, *words, code=None)
    for command in ("train", "test", "run", "profile", "browse", "submit"):
        it.run(command, "--cfg", EVIL, code=None)
        it.run(command, "--cfg", other, code=None)
        it.run(command, "--cfg", config, EVIL, EVIL, code=None)
        it.run(command, "--cfg", config, "MODEL.NUM_CLASSES", EVIL, code=None)
        it.run(command, "--cfg", config, "SOLVER.OPTIMIZING_METHOD", EVIL, code=None)
    for command in ("train", "test", "browse"):
        it.run(command, "--cfg", config, "DATA.PATH_TO_DATA_DIR", EVIL, "OUTPUT_DIR", it.out / "r", code=None)
    it.run("train", "--cfg", config, "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", f"{config}/{EVIL[:50]}", code=None)
    for command in ("report", "compare", "ensemble", "convert", "submit"):
        it.run(command, EVIL, EVIL, code=None)
        it.run(command, f"--{EVIL}", code=None)
    for command in ("verify", "leaks", "shards", "folder", "ucf101", "motion"):
        it.run("prep", command, EVIL, code=None)
        it.run("prep", command, "--jobs", EVIL, code=None)
        it.run("prep", command, "--videos", EVIL, "--out", EVIL, code=None)
    it.run("prep", "folder", "--videos", it.out / "raw", "--out", f"{config}/{EVIL[:50]}", code=1)
    it.run(
        "prep",
        "folder",
        "--videos",
        it.out / "raw",
        "--out",
        "o",
        "--group-regex",
        f"({EVIL}",
        "--val-fraction",
        0.1,
        code=1,
    )
    it.run("prep", EVIL, code=2)
    it.run(EVIL, code=2)
    lists = it.out / f"lists {SEQUENCES['colour']}"
    lists.mkdir()
    for number, line in enumerate((f"{EVIL} 0", f"{EVIL}", "a.mp4 \x1b[2J", "a.mp4 0\na.mp4 0", "a.mp4 \udcff")):
        (lists / "train.csv").write_text(f"{line}\n", errors="surrogateescape")
        it.run(*("train", "--cfg", config, "DATA.PATH_TO_DATA_DIR", lists, "OUTPUT_DIR", it.out / f"l{number}"), code=2)


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    true = ("commands", "refused_before_writing", "as_many_lines_as_classes")
    return failed(found, true=true, equal={"harmful": 0})


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as out:
        os.chdir(out)  # where a relative name would lead
        found = drill(Path(out))
    report(found, wrong(found))


if __name__ == "__main__":
    main()
