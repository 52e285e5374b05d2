"""Print the page of all commands, docs/commands.md, from what their --help prints.

python tools/commands_page.py > docs/commands.md
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence

from videofib.cli import COMMANDS
from videofib.cli import main as videofib
from videofib.commands.prep import AFTERWARDS, DATA_SETS
from videofib.parser import Parser

COLUMNS = "100"  # of the terminal that the help is wrapped for

_INTRO = """\
# Commands

Made from what `videofib NAME --help` prints by `python tools/commands_page.py > docs/commands.md`; a test compares the
two. What the commands are for: [README](README.md). The keys that `KEY VALUE` changes: [config.md](config.md).
"""


def commands_page() -> str:
    """The page, in Markdown: each command of ``videofib``, and each name of ``videofib prep``, with its help."""
    prepared = {f"prep {name}": what for name, what in (DATA_SETS | AFTERWARDS).items()}
    lines = [_INTRO, "| command | does |", "|---|---|"]
    lines += [f"| [`videofib {name}`](#videofib-{name}) | {what} |" for name, what in COMMANDS.items()]
    for name in COMMANDS:
        lines += _section("##", name)
        if name == "prep":
            lines += [line for each in prepared for line in _section("###", each)]
    return "\n".join(lines) + "\n"


def _section(level: str, name: str) -> Iterator[str]:
    yield from ("", f"{level} videofib {name}", "", "```text", help_of(videofib, *name.split()).rstrip(), "```")


def help_of(main: Callable[[Sequence[str]], None], *words: str) -> str:
    """What ``main`` prints for the words and ``--help``, wrapped for a terminal of ``COLUMNS``."""
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS  # where argparse looks
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return printed.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    print(commands_page(), end="")


if __name__ == "__main__":
    main()
