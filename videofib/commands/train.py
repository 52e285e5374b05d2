"""Train.

videofib train --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine
torchrun --nproc-per-node 2 -m videofib train --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine
"""

from collections.abc import Sequence

from videofib.run.main import main as run


def main(argv: Sequence[str] | None = None) -> None:
    run(["train"], argv, prog="videofib train", description=__doc__)
