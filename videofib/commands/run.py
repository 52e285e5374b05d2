"""Train, then test; TRAIN.ENABLE and TEST.ENABLE switch either off.

videofib run --cfg NAME_OR_FILE OUTPUT_DIR runs/mine NUM_GPUS 2
"""

from collections.abc import Sequence

from videofib.run.command_line import command_line
from videofib.signals import sigint_deferred


def main(argv: Sequence[str] | None = None) -> None:
    prog = "videofib run"
    file, overrides = command_line(argv, prog=prog, description=__doc__)
    with sigint_deferred():
        from videofib.run.main import main as run
    run(None, file, overrides, prog=prog)
