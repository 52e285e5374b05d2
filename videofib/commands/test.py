"""Test: the multi-view accuracy of the newest checkpoint in OUTPUT_DIR, or of TEST.CHECKPOINT_FILE_PATH.

videofib test --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
"""

from collections.abc import Sequence

from videofib.run.command_line import command_line
from videofib.signals import sigint_deferred


def main(argv: Sequence[str] | None = None) -> None:
    prog = "videofib test"
    file, overrides = command_line(argv, prog=prog, description=__doc__)
    with sigint_deferred():
        from videofib.run.main import main as run
    run(["test"], file, overrides, prog=prog)
