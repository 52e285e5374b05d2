"""HowTo100M -> checked, resized, seekable videos and list files.

    python data_prep/howto100m.py --videos howto100m --annotations HowTo100M_v1.csv --out data/howto100m

The annotations are HowTo100M_v1.csv, with the columns video_id, category_1, category_2, rank and task_id. A video's
class is its category_1, WikiHow's highest level, or with --category 2 the level below; classes are those that occur,
a slash in a name becomes a dash. Rows without a category are listed in the report and left out. Videos are
<video_id>.mp4 (any video extension). There is no official split: all videos are for training, except those of the
fraction of tasks that --val-fraction holds out; val.csv is test.csv.

Source: Miech et al., arXiv 1906.03327. No official file was available: the columns follow the data set's own readme and
the code of several papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from videofib.prep.annotations import plain_name, read_table
from videofib.prep.command import Listed, Listing, add_annotations, make_parser, run_listed
from videofib.prep.items import PrepareError

_COLUMNS = ("video_id", "category_1", "category_2", "rank", "task_id")
_EMPTY = ("", "nan", "NaN", "None")  # as pandas writes empty cells


def read_annotations(file: Path, *, category: int = 1, val_fraction: float = 0.0) -> Listing:
    """The videos with a category, and the categories in alphabetical order.

    Args:
        file: HowTo100M_v1.csv.
        category: 1 for the highest level, 2 for the one below.
        val_fraction: fraction of the tasks whose videos are held out. Whether a task is held out depends on its number
            only, so that videos of one task are never on both sides, whichever videos are present.

    Raises:
        PrepareError: a missing file or column, an invalid row or name; names file and line.
    """
    if not 0 <= val_fraction < 1:
        raise PrepareError(f"--val-fraction is {val_fraction}; it must be 0 or above and below 1")
    videos: dict[str, Listed] = {}
    without, twice = [], []
    columns, rows = read_table(file)
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise PrepareError(f"{file}: the header lacks {', '.join(missing)}; expected {','.join(_COLUMNS)}")
    for where, row in rows:
        if None in row or None in row.values():
            raise PrepareError(f"{where}: expected {','.join(_COLUMNS)}, got {list(row.values())}")
        name = f"{plain_name(row['video_id'], where)}.mp4"
        label = row[f"category_{category}"].strip().replace("/", "-")
        if name in videos:
            twice.append(name)
        elif label in _EMPTY:
            without.append(name)
        else:
            held_out = _uniform_hash(row["task_id"]) < val_fraction
            splits = ("val", "test") if held_out else ("train",)
            videos[name] = Listed(name, plain_name(label, where), splits)
    if not videos:
        raise PrepareError(f"{file} lists no video with a category_{category}; is the file complete?")
    notes = {f"without_category_{category}": without, "listed_twice": twice}
    return Listing(list(videos.values()), sorted({video.label for video in videos.values()}), notes)


def _uniform_hash(task: str) -> float:
    """A hash of the task in [0, 1), uniformly distributed."""
    return int.from_bytes(sha256(task.strip().encode()).digest()[:6], "big") / 2**48


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare HowTo100M.", prog)
    add_annotations(parser, "HowTo100M_v1.csv")
    parser.add_argument("--category", type=int, choices=(1, 2), default=1, help="level of the classes (default 1)")
    parser.add_argument("--val-fraction", type=float, default=0.0, help="fraction of the tasks to hold out (default 0)")
    args = parser.parse_args(arguments)
    run_listed(
        parser,
        args,
        lambda: read_annotations(args.annotations, category=args.category, val_fraction=args.val_fraction),
    )
