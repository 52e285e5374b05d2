"""Show what a model looked at in a video: attention rollout and Grad-CAM, as heat over its frames.

videofib explain clip.mp4 --model runs/mine --out explained
videofib explain clip.mp4 --model runs/mine --out explained --class Archery --views 3 1

VIDEO is a file or a URL, and FROM as for videofib predict. DIR gets index.html, which needs no other file, an animation
(.webp) and a video (.mp4) of each view and method, the heat as numbers (explain.npz), and the classes, frames and crops
(explain.json).

Rollout follows attention backwards through all blocks, and depends on no class. Grad-CAM explains the most probable
class or --class; it looks at the tokens that --block takes, by default the last block, or at those that the last block
returns where features are the mean of the patches. SlowFast, X3D, R(2+1)D and MViT have Grad-CAM alone.

With --check the page shows how the probability of the class falls as the hottest patches are removed, and as random
ones are: some 100 to 150 more forward passes a view.

By default one view is explained, the centre of the middle clip.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videofib.parser import Parser
from videofib.printable import printable
from videofib.run.video_options import add_options, check_options, errors_in_one_line, load_model
from videofib.signals import sigint_deferred

_FPS = 5  # of the videos, as of the animations: frames of a clip are often far apart
_ORDERS = {
    "rollout": "most attention first",
    "gradcam": "most Grad-CAM first",
    "random": "random orders",
}
_METHODS = {"rollout": ["rollout"], "gradcam": ["gradcam"], "both": ["rollout", "gradcam"]}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.prep.encode import write_video
        from videofib.report.explanation.page import animations, write_explanation

    with errors_in_one_line():
        explanation = load_model(args).explain(
            args.videos[0],
            label=args.label,
            methods=_METHODS[args.method] if args.method else None,
            block=args.block,
            views=tuple(args.views) if args.views else (1, 1),
            check=args.check,
        )
        if not args.no_video:
            for name, frames in animations(explanation):
                write_video(Path(args.out) / f"{name}.mp4", frames, _FPS)
        page = write_explanation(args.out, explanation)
    for name, probability in explanation.top(3):
        print(f"{100 * probability:5.1f} %  {printable(name)}")
    for name, area in explanation.areas().items():
        print(f"{100 * area:5.1f} %  area under the deletion curve, {_ORDERS[name]}")
    views = len(explanation.views)
    print(
        f"wrote {printable(page)}: {' and '.join(explanation.heat)} of {views} view{'' if views == 1 else 's'}, "
        f"explaining {printable(explanation.explained)}"
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib explain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs=1, metavar="VIDEO", help="a file or a URL")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--class", dest="label", metavar="NAME", help="which Grad-CAM explains (default: most probable)"
    )
    parser.add_argument("--method", choices=tuple(_METHODS), help="default: all that the model has")
    parser.add_argument(
        "--block", type=int, metavar="B", help="of Grad-CAM: from 0, or from the end below 0 (default: the last)"
    )
    parser.add_argument("--check", action="store_true", help="test whether the model needs what is hot; takes longer")
    parser.add_argument("--no-video", action="store_true", help="do not write .mp4 files")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one a line, where the model has none")
    add_options(parser, many=False)
    args = parser.parse_args(argv)
    check_options(parser, args)
    if Path(args.out).exists() and not Path(args.out).is_dir():
        parser.error(f"--out {printable(args.out)} is not a folder")
    if args.method == "rollout" and args.block is not None:
        parser.error("--block belongs to Grad-CAM; rollout goes through all blocks")
    if args.method == "rollout" and args.label is not None and not args.check:
        parser.error("--class belongs to Grad-CAM and --check; rollout depends on no class")
    return args
