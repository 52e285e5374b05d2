"""Test: the multi-view accuracy of the newest checkpoint in OUTPUT_DIR, or of TEST.CHECKPOINT_FILE_PATH.

videofib test --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine
"""

from collections.abc import Sequence

from videofib.run.main import main as run


def main(argv: Sequence[str] | None = None) -> None:
    run(["test"], argv, prog="videofib test", description=__doc__)
