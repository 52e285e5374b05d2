"""``videofib prep leaks DIR``: find recordings and pictures that are in both training and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.parser import Parser
from videofib.prep.defaults import HASH_BITS, NEAR
from videofib.printable import printable
from videofib.signals import sigint_deferred


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = Parser(prog, description="Find recordings and pictures that are in both training and test.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of a preparation")
    parser.add_argument("--near", type=int, default=NEAR, help=f"bits that may differ, of {HASH_BITS} (default {NEAR})")
    args = parser.parse_args(arguments)
    if not 0 <= args.near <= HASH_BITS:
        parser.exit(1, f"{parser.prog}: --near {args.near} must be from 0 to {HASH_BITS}\n")
    with sigint_deferred():
        from videofib.data.lists.manifest import MANIFEST_NAME, read_manifest
        from videofib.prep.leaks import find_leaks

    try:
        rows = read_manifest(args.folder / MANIFEST_NAME)
    except ManifestError as error:
        parser.exit(1, f"{parser.prog}: {printable(error)}\n")
    report = find_leaks(rows, near=args.near)
    counts = report["leaks"]
    for line in (*report["leaks_by_name"], *report["leaks_by_picture"]):
        print(printable(line))
    print(
        f"{printable(args.folder)}: {counts['recordings_on_both_sides']} recordings on both sides by their names, "
        f"{counts['near_pairs']} pairs of middle frames that differ in at most {args.near} of {HASH_BITS} bits"
    )
