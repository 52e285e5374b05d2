"""What a drill has found, and whether it holds: the same verdict for the command and for the short test of it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def failed(found: Mapping, *, true: tuple[str, ...], equal: Mapping[str, object] | None = None) -> list[str]:
    """What does not hold of what a drill has found: values that must be true, or equal to a given one.

    A dot in a name leads into a part: ``damages.same_weights``.
    """
    wrong = [f"{name} is {value!r}" for name in true if not (value := _find(found, name))]
    for name, expected in (equal or {}).items():
        if (value := _find(found, name)) != expected:
            wrong.append(f"{name} is {value!r}, not {expected!r}")
    return wrong


def report(found: Mapping, wrong: list[str]) -> None:
    """Print what was found, and end the process with an error where something does not hold."""
    print(json.dumps(found, indent=1))
    if wrong:
        sys.exit(f"the drill failed: {'; '.join(wrong)}")


def run_with_damages(
    drill: Callable[[Path, int], Mapping], wrong: Callable[[Mapping], list[str]], doc: str | None, damages: int, of: str
) -> None:
    """The command of a drill that works in a temporary folder; ``--damages`` is the number of random ones of each."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=damages, help=f"random damages of each {of}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        found = drill(Path(out), args.damages)
    report(found, wrong(found))


def _find(found: Mapping, name: str) -> object:
    for part in name.split("."):
        found = found[part]
    return found
