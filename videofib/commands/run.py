"""Train, then test; TRAIN.ENABLE and TEST.ENABLE switch either off.

videofib run --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine NUM_GPUS 2
"""

from collections.abc import Sequence

from videofib.run.main import main as run


def main(argv: Sequence[str] | None = None) -> None:
    run(None, argv, prog="videofib run", description=__doc__)
