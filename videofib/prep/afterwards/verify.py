"""``videofib prep verify DIR``: check a prepared folder against its manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from videofib.parser import Parser
from videofib.printable import printable
from videofib.signals import sigint_deferred
from videofib.starting import StartError, end_if_unguarded


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = Parser(prog, description="Check a prepared folder against its manifest.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of a preparation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes in parallel (default: one a core)")
    args = parser.parse_args(arguments)
    end_if_unguarded()
    with sigint_deferred():
        from videofib.prep.verify import verify

    try:
        problems, count = verify(args.folder, args.jobs)
    except (ValueError, StartError) as error:
        parser.exit(1, f"{parser.prog}: {printable(error)}\n")
    for problem in problems:
        print(printable(problem))
    print(f"{printable(args.folder)}: {count} videos read, {len(problems) or 'no'} problem{'s'[: len(problems) != 1]}")
    parser.exit(bool(problems))
