"""Measure what the attention heads of a model do: which classes each recognises, and what is lost without it.

videofib heads runs/mine --out heads
videofib heads runs/mine --out heads --blocks 0 -1 --videos 200 --opts DATA.PATH_TO_DATA_DIR data/mine
videofib heads runs/mine --out untrained --untrained

FROM is a run's folder or anything else that videofib predict takes as --model. The train list of its data set fits a
linear readout of each block's heads; all figures are of videos of --split. DIR gets index.html, which needs no other
file, heads.json and heads.npz. One view of each video is read, the centre of the middle clip.

  alone       accuracy and recall of each head by itself, and whether heads are more specialised than random groups of
              as many numbers (a permutation null of --draws splits)
  removed     accuracy without each head, in one block and in all, and as heads go one after the other
  alike       how much the pairs that heads see, their attention maps and their outputs have in common

A model with A heads in all takes some A + 60 forward passes of each video of the split, and A of 200 training videos.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from videofib.parser import Parser
from videofib.printable import printable
from videofib.report.markup.numbers import counted
from videofib.run.video_options import (
    add_model_options,
    check_pairs,
    errors_in_one_line,
    load_model,
    reading_workers,
)
from videofib.signals import sigint_deferred

_FIT, _VIDEOS, _DRAWS = 800, 400, 1000


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.report.heads.page import write_heads
        from videofib.run.heads import Settings, measure_heads, untrained

    with errors_in_one_line():
        saved = load_model(args)
        if args.untrained:
            saved = untrained(saved, args.seed)
        settings = Settings(
            split=args.split,
            blocks=args.blocks,
            patches=args.patches,
            fit_videos=args.fit_videos,
            videos=args.videos,
            draws=args.draws,
            seed=args.seed,
        )
        found = measure_heads(
            saved,
            settings,
            num_workers=reading_workers(args.workers, args.videos),
            report=lambda line: print(printable(line), file=sys.stderr),
        )
        page = write_heads(args.out, found)
    for layer in found.layers:
        alone, margin = layer.compared["alone"], layer.compared["margin"]
        print(
            f"{layer.title}: readout {layer.readout:.1f} %, a head alone {alone.value:.1f} % (random groups "
            f"{alone.mean:.1f} %), best head above the mean by {margin.value:.1f} points (random {margin.mean:.1f}, "
            f"p = {margin.p_value:.3g})"
        )
    if found.unreadable:
        print(f"{counted(found.unreadable, 'video', 'videos')} could not be read, and left out", file=sys.stderr)
    layers, videos = counted(len(found.layers), "layer", "layers"), counted(found.num_videos, "video", "videos")
    print(f"wrote {printable(page)}: {layers} of heads, {videos}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib heads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="whose videos are measured")
    parser.add_argument(
        "--blocks", nargs="+", type=int, metavar="B", help="from 0, or from the end below 0 (default: all)"
    )
    parser.add_argument(
        "--videos", type=int, default=_VIDEOS, metavar="N", help=f"of the split at most (default {_VIDEOS})"
    )
    parser.add_argument(
        "--fit-videos", type=int, default=_FIT, metavar="N", help=f"training videos at most (default {_FIT})"
    )
    parser.add_argument(
        "--draws", type=int, default=_DRAWS, metavar="N", help=f"random groups of the null (default {_DRAWS})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default 0)")
    parser.add_argument(
        "--patches", action="store_true", help="look at outputs of the patches, also where there is a class token"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="measure the model with initial weights instead, as a control"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read videos; 0: this one")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one a line, where the model has none")
    add_model_options(parser, positional=True)
    args = parser.parse_args(argv)
    check_pairs(parser, args)
    for name in ("videos", "fit_videos", "draws"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.workers is not None and args.workers < 0:
        parser.error("--workers must not be negative")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    if Path(args.out).exists() and not Path(args.out).is_dir():
        parser.error(f"--out {printable(args.out)} is not a folder")
    return args
