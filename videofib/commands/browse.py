"""Show clips of a data set as a config reads, crops and augments them.

videofib browse --cfg NAME_OR_FILE --split train --out browse KEY VALUE ...

Writes OUT/index.html with the clips as animations, and OUT/sheet_1.png with their frames. A training video is shown as
several epochs draw it, a test video with all of its views.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.config import ConfigError, load_config
from videofib.data.errors import ManifestError
from videofib.files import describe
from videofib.parser import Parser
from videofib.printable import printable
from videofib.signals import sigint_deferred

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.report.browse.clips import browse, evenly_spaced
        from videofib.report.browse.gallery import write_folder
        from videofib.run.class_names import shown_class_names
        from videofib.run.preflight import checked_loader

    try:
        cfg = load_config(args.cfg, args.pairs)
        loader = checked_loader(cfg, args.split)
        videos = browse(loader.dataset, evenly_spaced(len(loader.dataset.records), args.num), args.draws)
        page = write_folder(
            args.out or Path(cfg.OUTPUT_DIR) / f"browse_{args.split}",
            videos,
            title=f"What the model sees: {args.split}",
            notes=notes(cfg, args, len(videos), len(loader.dataset.records)),
            class_names=shown_class_names(cfg, args.split, loader.dataset.records),
        )
    except (ConfigError, ManifestError) as error:
        raise SystemExit(f"error: {printable(error)}") from None
    except OSError as error:
        raise SystemExit(f"error: {printable(describe(error))}") from None
    broken = sum(bool(video.reason) for video in videos)
    clips = sum(len(video.clips) for video in videos)
    print(f"wrote {printable(page)}: {len(videos)} videos, {clips} clips, {broken} unreadable")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib browse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg", required=True, metavar="NAME_OR_FILE", help="the experiment's YAML file, or a name in configs/"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="default: train")
    parser.add_argument(
        "--num", type=_count, default=8, metavar="N", help="videos, evenly spaced over the split (default 8)"
    )
    parser.add_argument(
        "--draws", type=_count, default=4, metavar="N", help="epochs of each training video, side by side (default 4)"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: OUTPUT_DIR/browse_<split>)")
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    return parser.parse_args(argv)


def notes(cfg: CfgNode, args: argparse.Namespace, shown: int, listed: int) -> list[str]:
    """The sentences above the clips."""
    changes = f" with {' '.join(args.pairs)}" if args.pairs else ""
    mixed = ["MIXUP, which mixes these clips afterwards, is not shown."]
    return [
        f"{shown} of {listed} videos of the {args.split} split in {cfg.DATA.PATH_TO_DATA_DIR}, read as in "
        f"{args.cfg}{changes}.",
        "Below each clip: its first frame before cropping, with the crop outlined.",
        *(mixed if cfg.MIXUP.ENABLE and args.split == "train" else []),
    ]


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, got {count}")
    return count
