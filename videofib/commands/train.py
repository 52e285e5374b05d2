"""Train.

videofib train --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
torchrun --nproc-per-node 2 -m videofib train --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
"""

from collections.abc import Sequence

from videofib.run.command_line import command_line
from videofib.signals import sigint_deferred


def main(argv: Sequence[str] | None = None) -> None:
    prog = "videofib train"
    file, overrides = command_line(argv, prog=prog, description=__doc__)
    with sigint_deferred():
        from videofib.run.main import main as run
    run(["train"], file, overrides, prog=prog)
