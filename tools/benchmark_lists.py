"""Time and memory of long lists, of a preparation that has nothing to do, and of a preparation's journal and manifest.

    python tools/benchmark_lists.py --rows 1000000 --files 20000 --rounds 3 --checkout ../older

Each part runs in a process of its own, on files that it makes in a temporary folder. With ``--checkout``, that version
of videofib and this one take turns within each round, so that a slow moment of the machine affects both; nothing is
used that versions before this script lack. Figures are medians, and the lowest and highest, of all rounds; manifests
are written in the first round alone. Memory is what a part adds to a process that has imported what it needs: resident
(RSS) at the end, and the highest in between. Seconds of the processor depend less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLASSES = 700
MB = 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure long lists and preparations; prints JSON and a table.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the list (default %(default)s)")
    parser.add_argument("--files", type=int, default=20_000, help="of the preparation (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="of all parts (default %(default)s)")
    parser.add_argument("--checkout", type=Path, help="of an older version, to compare with")
    parser.add_argument("--part", choices=tuple(PARTS), help="this one only, in this process, in --folder")
    parser.add_argument("--folder", type=Path, help="for --part")
    args = parser.parse_args(arguments)
    if args.part:
        count = args.files if args.part == "preparation" else args.rows
        print(json.dumps({"part": args.part, "count": count, **PARTS[args.part](args.folder, count)}))
        return
    checkouts = {"ours": Path(__file__).parents[1]} | ({"older": args.checkout} if args.checkout else {})
    found: dict[str, dict[str, dict[str, list[float]]]] = {}  # by part, figure and checkout, of all rounds
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for part in PARTS:
                for name, checkout in checkouts.items():
                    if part == "manifest" and number:
                        continue
                    sizes = ["--rows", str(args.rows), "--files", str(args.files)]
                    figures = _in_a_process(part, Path(folder, name), sizes, checkout)
                    for figure, value in figures.items():
                        found.setdefault(part, {}).setdefault(figure, {}).setdefault(name, []).append(value)
    print(json.dumps({"rows": args.rows, "files": args.files, "rounds": args.rounds, "parts": found}))
    print(table(found, list(checkouts)))


def _in_a_process(part: str, folder: Path, sizes: Sequence[str], checkout: Path) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    command = [sys.executable, __file__, "--part", part, "--folder", folder, *sizes]
    result = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {figure: value for figure, value in result.items() if figure not in ("part", "count")}


def table(found: dict[str, dict[str, dict[str, list[float]]]], checkouts: Sequence[str]) -> str:
    """Medians, and the lowest and highest, as rows of Markdown."""
    lines = [f"| part | figure | {' | '.join(checkouts)} |", "|---|---|" + "---:|" * len(checkouts)]
    for part, figures in found.items():
        for figure, by_checkout in figures.items():
            cells = [
                f"{statistics.median(values):g} ({min(values):g} to {max(values):g})" for values in by_checkout.values()
            ]
            lines.append(f"| {part} | {figure.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def path_of(row: int) -> str:
    return f"videos/class_{row % CLASSES:03d}/{row:011x}_000010_000020.mp4"


def list_alone(folder: Path, rows: int) -> dict:
    """Read a list and the keys of an epoch, as one process of a training does."""
    return _read(_write_list(folder / "alone", rows))


def write_manifest(folder: Path, rows: int) -> dict:
    """The list and the manifest for ``list_with_manifest``; the manifest is timed."""
    lists = _lists()

    def row(number: int):
        label = number % CLASSES
        facts = (300, 30.0, 10.0, 340, 256, "h264", 0, True, 400_000 + number, f"{number:064x}")
        return lists.ManifestRow(path_of(number), label, "train", *facts, source=f"{number}.mp4")

    _write_list(folder / "facts", rows)
    start = time.perf_counter()
    lists.write_manifest(folder / "facts/manifest.parquet", map(row, range(rows)))
    return {"seconds": round(time.perf_counter() - start, 2)}


def list_with_manifest(folder: Path, rows: int) -> dict:
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401, which is not the list's memory

    return _read(folder / "facts")


def _write_list(folder: Path, rows: int) -> Path:
    folder.mkdir(exist_ok=True)
    if not (folder / "train.csv").exists():
        with (folder / "train.csv").open("w") as file:
            file.writelines(f"{path_of(row)} {row % CLASSES}\n" for row in range(rows))
    return folder


def _read(folder: Path) -> dict:
    from videofib.data.samplers import EpochSampler, shuffled

    load_split = _load_split()
    before = _resident()
    read, processor = time.perf_counter(), time.process_time()
    records = load_split(folder, "train")
    records_read, memory = time.perf_counter(), _resident()
    processor, highest = time.process_time() - processor, _highest()
    for _ in zip(range(64), EpochSampler(shuffled(len(records), 0), 64), strict=False):
        pass
    drawn = time.perf_counter()
    assert records[len(records) // 2].video_id == path_of(len(records) // 2)
    return {
        "seconds": round(records_read - read, 2),
        "processor_seconds": round(processor, 2),
        "megabytes": round((memory - before) / MB),
        "highest_megabytes": round((highest - before) / MB),
        "first_batch_drawn_seconds": round(drawn - records_read, 2),
        "highest_megabytes_with_keys": round((_highest() - before) / MB),
    }


def preparation(folder: Path, files: int) -> dict:
    """Prepare ``files`` small files without encoding them, then again with nothing left to do."""
    shutil.rmtree(folder / "prepared", ignore_errors=True)  # of an earlier round
    prepare, item, encoding, transcoded = _prep()
    raw, out = folder / "prepared/raw", folder / "prepared/out"
    items = []
    for number in range(files):
        path = raw / f"class_{number % 100:03d}" / f"v_{number:06d}.mp4"
        if number < 100:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"0123456789")
        items.append(item(str(path.relative_to(raw)), number % 100, ("train",), path))
    names = [f"class_{number:03d}" for number in range(100)]
    facts = {
        **{"num_frames": 2, "fps": 25.0, "duration": 0.08, "width": 32, "height": 32, "codec": "h264", "rotation": 0},
        **{"mirrored": False, "variable_rate": False, "random_access": True, "sha256": "0" * 64, "damaged": ""},
        **{"clock_jumps": 0},
    }
    facts = {name: value for name, value in facts.items() if name in transcoded.__dataclass_fields__}

    def copying(function: Callable, calls: Sequence, jobs: int) -> Iterator:
        for index, (what, target, *_) in enumerate(calls):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(getattr(what, "source", what), target)  # earlier versions name the source itself
            # hashes far from each other, so that no leaks are found
            yield index, transcoded(size=10, dhash=f"{index * 0x9E3779B97F4A7C15 % 2**64:016x}", **facts)

    def run() -> dict[str, float]:
        start, processor = time.perf_counter(), time.process_time()
        with _timed(sys.modules[prepare.__module__]) as inside:
            prepare(items, names, out, videos=raw, encoding=encoding(), jobs=2, engine=copying)
        return {**inside, "all": time.perf_counter() - start, "processor": time.process_time() - processor}

    first, again = run(), run()
    return {
        "journal_milliseconds_a_video": round(1000 * first["journal"] / files, 3),
        "lists_milliseconds_a_video": round(1000 * first["lists"] / files, 3),
        "nothing_to_do_seconds": round(again["all"], 2),
        "nothing_to_do_processor_seconds": round(again["processor"], 2),
    }


@contextmanager
def _timed(module) -> Iterator[dict[str, float]]:
    """Add up the seconds inside of the journal's methods, and of writing manifest and lists, while the block runs."""
    spent = {"journal": 0.0, "lists": 0.0}

    def timed(function: Callable, name: str) -> Callable:
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    journal, write_lists = module.Journal, module._write_lists
    methods = ("__init__", "__enter__", "__exit__", "find", "add")
    module.Journal = type("Journal", (journal,), {name: timed(getattr(journal, name), "journal") for name in methods})
    module._write_lists = timed(write_lists, "lists")
    try:
        yield spent
    finally:
        module.Journal, module._write_lists = journal, write_lists


def _load_split() -> Callable:
    try:
        from videofib.data.lists.splits import load_split
    except ImportError:  # versions before that module
        return _lists().load_split
    return load_split


def _lists():
    try:
        from videofib.data.lists import manifest
    except ImportError:  # versions before the folder data/lists
        from videofib.data import manifest
    return manifest


def _prep():
    try:
        from videofib.prep.prepare import Item, prepare  # where Item is, too, in every version
        from videofib.prep.transcode import Encoding, Transcoded
    except ImportError:  # versions before the folder prep
        from videofib.data.prepare import Item, prepare
        from videofib.data.transcode import Encoding, Transcoded
    return prepare, Item, Encoding, Transcoded


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _highest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


PARTS = {
    "list": list_alone,
    "manifest": write_manifest,
    "list with manifest": list_with_manifest,
    "preparation": preparation,
}

if __name__ == "__main__":
    main()
