"""``videofib prep motion --out DIR``: generate the motion data set (``prep/motion.py`` describes it)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from videofib.files import describe
from videofib.parser import Parser
from videofib.prep.command import folder_path
from videofib.printable import printable
from videofib.signals import sigint_deferred


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = Parser(prog, description="Write the motion data set.")
    parser.add_argument("--out", type=folder_path, required=True, help="folder to write; its videos/ and annotations/")
    parser.add_argument("--train-per-class", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--test-per-class", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=argparse.SUPPRESS, help="height of a frame in pixels")
    parser.add_argument("--seed", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    given = vars(parser.parse_args(arguments))
    out, jobs = given.pop("out"), given.pop("jobs")
    with sigint_deferred():
        from videofib.prep.motion import MotionSet, write_motion

    try:
        write_motion(out, MotionSet(**given), jobs)
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {printable(describe(error))}\n")
    except (ValueError, RuntimeError) as error:
        lines = "\n".join(map(printable, str(error).split("\n")))
        parser.exit(1, f"{parser.prog}: {lines}\n")
