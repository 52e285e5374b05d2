"""What a drill has found, and whether it holds: the same verdict for the command and for the short test of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping


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


def _find(found: Mapping, name: str) -> object:
    for part in name.split("."):
        found = found[part]
    return found
