"""``videofib prep shards DIR --out OUT``: pack the videos of a prepared folder into tar files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.parser import Parser
from videofib.prep.defaults import SHARD_BYTES
from videofib.printable import printable
from videofib.signals import sigint_deferred


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Pack the splits of a prepared folder."""
    parser = Parser(prog, description="Pack the videos of list files into WebDataset tar shards.")
    parser.add_argument("folder", type=Path, help="a prepared folder, with train.csv, val.csv, test.csv")
    parser.add_argument("--out", required=True, help="a folder, or a URL that fsspec can write to")
    parser.add_argument(
        "--shard-bytes", type=int, default=SHARD_BYTES, help="approximate size of a shard (default %(default)s)"
    )
    args = parser.parse_args(arguments)
    with sigint_deferred():
        from videofib.data.lists.classes_file import SPLITS
        from videofib.data.lists.layout import recognised
        from videofib.data.lists.rows import have_several_classes
        from videofib.data.lists.splits import load_split, split_class_names
        from videofib.data.lists.text_list import has_several_classes
        from videofib.prep.shards import write_class_names, write_shards

    try:
        splits = [split for split in SPLITS if (args.folder / f"{split}.csv").is_file()]
        if not splits:
            raise ManifestError(f"{args.folder} has none of {', '.join(f'{split}.csv' for split in SPLITS)}")
        for split in splits:
            file = args.folder / f"{split}.csv"
            layout = recognised(file, " ")
            several = have_several_classes(file, layout) if layout else has_several_classes(file)
            records = load_split(args.folder, split, multi_label=several)
            count = write_shards(records, args.out, split, args.shard_bytes)
            print(f"{printable(args.out)}: {len(records)} {split} videos in {count} shard(s)")
        if names := split_class_names(args.folder, splits[0]):
            write_class_names(args.out, names)
    except (ManifestError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {printable(error)}\n")
