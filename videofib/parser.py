"""The parser of every command line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from videofib.printable import printable


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are one line that shows itself: they repeat words of the command line as they came."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))
