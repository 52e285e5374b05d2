"""List the configs that come with videofib, or print one.

videofib configs
videofib configs UCF101/TimeSformer_joint_fibottention_8x8_224 > mine.yaml
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from videofib.parser import Parser
from videofib.printable import printable

_NOT_LISTED = ("Papers:", "Paper:", "Prepare:", "Launch:")  # lines of a header that are left to the config itself


def main(argv: Sequence[str] | None = None) -> None:
    """Print the names with what each is and is expected to cost, or the text of one config."""
    args = arguments(argv)
    from videofib.config import ConfigError  # after the parsing: the config needs libraries that --help does not
    from videofib.config.named import find_config, named_configs

    if args.name is None:
        for name, file in named_configs().items():
            print(name, *(f"  {line}" for line in summary(file)), sep="\n")
        return
    try:
        print(find_config(args.name).read_text(encoding="utf-8"), end="")
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"error: {printable(error)}") from None


def summary(file: Path) -> list[str]:
    """The lines of a config's header that say what it is and what to expect of it."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    header = [line.removeprefix("#").strip() for line in lines]
    return [line for line in header if not line.startswith(_NOT_LISTED)]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib configs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", metavar="NAME_OR_FILE", help="prints this one; by default all are listed")
    return parser.parse_args(argv)
