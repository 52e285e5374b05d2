"""Write the features of videos into a file: what a trained model sees in each.

videofib features videos/ --model runs/mine --out features.parquet
videofib features --list train.csv --model runs/mine --views 1 1 --kind frames --block -2 --out train.npz
videofib features --list train.csv --model runs/mine --shard 0/4 --out train-0.parquet

VIDEO and FROM are as for videofib predict, without -; a list may have labels, path and class index, which are kept.
Features are the mean over the views of the model's tests, or --views: pooled (D numbers a video, what the classifier
sees), frames (t x D) or tokens (N x D), of the last block or --block. A .parquet file has a row group for every few
hundred videos, an .npz needs no pickle.

A video that cannot be read is one line, and its row has the error. Finished videos are kept in FILE.parts until all
are: after a kill, the same command continues. --shard I/N takes every N-th video from the I-th on, counted from 0, so
that N processes, each with a file of its own, share a list; videofib probe reads the files together. The exit status
is 1 if no video could be read.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.metrics.feature_kinds import KINDS, SUFFIXES
from videofib.parser import Parser
from videofib.printable import printable
from videofib.run.video_options import (
    add_list_options,
    add_options,
    check_options,
    errors_in_one_line,
    load_model,
    reading_workers,
)
from videofib.signals import sigint_deferred

if TYPE_CHECKING:
    from videofib.data.lists.record import NamedVideo


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.data.lists.found import find_videos, read_labelled
        from videofib.metrics.features import FeaturesError
        from videofib.metrics.table import UNLABELLED
        from videofib.run.features import extract

    with errors_in_one_line():
        find_videos(args.videos)  # a mistake in names is reported before the model is loaded
        listed, known = read_labelled(args.list, args.segments) if args.list else ([], [])
        saved = load_model(args)
        videos: list[str | NamedVideo] = [*find_videos(args.videos, frame_folders=saved.cfg.DATA.NUM_FRAMES > 1)]
        labels = [UNLABELLED] * len(videos)
        videos, labels = [*videos, *listed], labels + known
        shard, count = args.shard
        total = len(videos)
        videos, labels = videos[shard::count], labels[shard::count]
        if not videos:
            raise FeaturesError(f"shard {shard}/{count} of {total} videos is empty; take fewer shards")
        answered = extract(
            saved,
            videos,
            labels,
            args.out,
            views=tuple(args.views) if args.views else None,
            kind=args.kind,
            block=args.block,
            num_workers=reading_workers(args.workers, len(videos)),
            report=lambda line: print(printable(line), file=sys.stderr),
        )
    if answered < len(videos):
        print(f"{len(videos) - answered} of {len(videos)} videos could not be read", file=sys.stderr)
    print(f"wrote {args.kind} features of {answered} videos to {printable(args.out)}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="files, folders or URLs")
    add_list_options(parser, "a list of paths, with labels or without")
    parser.add_argument("--out", required=True, metavar="FILE", help=f"a file that ends in {' or '.join(SUFFIXES)}")
    parser.add_argument("--kind", choices=KINDS, default="pooled", help="of features (default pooled)")
    parser.add_argument(
        "--block", type=int, default=-1, metavar="B", help="whose output, counted from 0 or, below 0, from the end"
    )
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help="every N-th video from the I-th on")
    add_options(parser)
    args = parser.parse_args(argv)
    check_options(parser, args)
    if Path(args.out).suffix not in SUFFIXES:
        parser.error(f"--out must end in {' or '.join(SUFFIXES)}")
    if "-" in args.videos:
        parser.error("standard input has no name to keep; save the video to a file")
    return args


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, got {text}")
    return int(found[1]), int(found[2])
