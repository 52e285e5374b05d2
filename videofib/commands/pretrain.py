"""Learn from videos without labels, as PRETRAIN.METHOD says; train then starts from the weights.

videofib pretrain --cfg NAME_OR_FILE PRETRAIN.METHOD mae OUTPUT_DIR runs/mae
videofib train --cfg NAME_OR_FILE TRAIN.CHECKPOINT_FILE_PATH runs/mae/checkpoints/checkpoint_epoch_00100.pyth
"""

from collections.abc import Sequence

from videofib.run.command_line import command_line
from videofib.signals import sigint_deferred


def main(argv: Sequence[str] | None = None) -> None:
    prog = "videofib pretrain"
    file, overrides = command_line(argv, prog=prog, description=__doc__)
    with sigint_deferred():
        from videofib.run.main import main as run
    run(["pretrain"], file, overrides, prog=prog)
