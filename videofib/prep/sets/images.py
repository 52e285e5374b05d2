"""Pictures in folders of classes, or CIFAR -> checked, upright pictures of bounded size, and list files.

    python data_prep/images.py --images ROOT --out data/own --val-fraction 0.2
    python data_prep/images.py --images cifar-10-binary.tar.gz --out data/cifar10 --val-fraction 0.1

ROOT is either ROOT/<class>/*.jpg (.png, .webp, .bmp, also in folders below), of which a fraction can be held out, or
already divided: ROOT/train/<class>/*, ROOT/val/<class>/*, ROOT/test/<class>/*, as for videofib prep folder, with the
same options. CIFAR-10 and CIFAR-100 (fine labels) are read from their official binary archives, or the folders unpacked
from these; their test pictures are also the validation set unless a fraction of the others is held out for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.data.lists.extensions import may_be_picture
from videofib.parser import Parser
from videofib.prep.command import add_engine, carry_out, folder_path
from videofib.prep.items import Item, PrepareError
from videofib.prep.sets.folder import add_holding_out, held_out, read_root
from videofib.signals import sigint_deferred

if TYPE_CHECKING:
    from videofib.prep.pictures import PictureEncoding

_QUALITY = 95


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = Parser(prog, description="Prepare pictures: folders of classes, or CIFAR-10 and -100.")
    parser.add_argument(
        "--images", type=Path, required=True, help="folder of classes, or an archive such as cifar-10-binary.tar.gz"
    )
    parser.add_argument(
        "--out", type=folder_path, required=True, help="folder to write; run again to resume or repair it"
    )
    parser.add_argument("--format", choices=("png", "jpeg"), default="png", help="png (default) is without loss")
    parser.add_argument("--quality", type=int, metavar="Q", help=f"of jpeg, 1 to 95 (default {_QUALITY})")
    parser.add_argument("--short-side", type=int, default=0, metavar="N", help="pixels at most; 0: unchanged (default)")
    add_holding_out(parser)
    add_engine(parser)
    args = parser.parse_args(arguments)

    def read() -> tuple[Sequence[Item], Sequence[str], dict, PictureEncoding]:
        encoding = _encoding(args)
        return *_items(args), encoding

    carry_out(parser, args, args.images, read)


def _encoding(args: argparse.Namespace) -> PictureEncoding:
    with sigint_deferred():
        from videofib.prep.pictures import PictureEncoding

    if args.jobs < 1:
        raise PrepareError(f"--jobs {args.jobs} must be 1 or above")
    if args.format != "jpeg" and args.quality is not None:
        raise PrepareError("--quality is of --format jpeg; png is without loss")
    quality = _QUALITY if args.quality is None else args.quality
    if not 1 <= quality <= 95:
        raise PrepareError(f"--quality {quality} must be from 1 to 95")
    if not 0 <= args.short_side <= 2**15:
        raise PrepareError(f"--short-side {args.short_side} must be from 0 to {2**15}")
    return PictureEncoding(args.format, args.short_side, quality)


def _items(args: argparse.Namespace) -> tuple[Sequence[Item], Sequence[str], dict]:
    with sigint_deferred():
        from videofib.prep.cifar import is_cifar, read_cifar

    options = {
        "val_fraction": args.val_fraction,
        "group_regex": args.group_regex,
        "val_groups": [name for name in args.val_groups.split(",") if name],
        "seed": args.seed,
    }
    if not os.path.exists(args.images):  # noqa: PTH110, which fails for names too long
        raise PrepareError(f"--images {args.images} does not exist")
    if not is_cifar(args.images):
        return read_root(args.images, wanted=may_be_picture, **options)
    if args.group_regex or args.val_groups:
        raise PrepareError("--group-regex and --val-groups do not apply to CIFAR, whose pictures have no groups")
    items, classes, notes = read_cifar(args.images)
    return _divided(items, args.val_fraction, args.seed), classes, notes


def _divided(items: Sequence[Item], val_fraction: float, seed: int) -> list[Item]:
    """CIFAR's items with validation: a fraction of the training pictures, or without one the test pictures."""
    if not val_fraction:
        return [replace(item, splits=("val", "test")) if item.splits == ("test",) else item for item in items]
    chosen = held_out([item for item in items if item.splits == ("train",)], val_fraction, "", (), seed)
    return [replace(item, splits=("val",)) if item.name in chosen else item for item in items]
