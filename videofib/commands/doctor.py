"""Examine this machine: one line each for packages, devices, readers of videos, backends of attention, and caches.

videofib doctor
videofib doctor --compile --head-dims 32 64

A small video is written into a temporary folder and read by each reader, and attention is computed by each backend;
their results are compared with what was written and with the reference. Lines begin with

  ok        it works
  missing   it is not installed, and videofib works without it
  unusable  it does not run here, and videofib works without it
  FAILED    it is needed and does not work, or it gives wrong frames or numbers

Exits with status 1 after any FAILED, otherwise with 0. docs/doctor.md explains the lines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from videofib.parser import Parser
from videofib.signals import sigint_deferred

_HEAD_DIMS = (32, 64)
_LARGEST_HEAD_DIM = 1024


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.doctor.examination import examine
        from videofib.doctor.finding import State

    failed = []
    for finding in examine(args.head_dims if args.compile else ()):
        print(finding, flush=True)
        if finding.state is State.FAILED:
            failed.append(finding.part)
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all that is needed works")
    sys.exit(1 if failed else 0)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile the CPU kernel now, forward and backward")
    parser.add_argument(
        "--head-dims",
        nargs="+",
        type=int,
        metavar="D",
        help=f"head dimensions to compile for (default {' '.join(map(str, _HEAD_DIMS))})",
    )
    args = parser.parse_args(argv)
    if args.head_dims and not args.compile:
        parser.error("--head-dims needs --compile")
    args.head_dims = args.head_dims or list(_HEAD_DIMS)
    if not all(1 <= dim <= _LARGEST_HEAD_DIM for dim in args.head_dims):
        parser.error(f"--head-dims must lie between 1 and {_LARGEST_HEAD_DIM}")
    return args
