"""The same as ``videofib run``: train and then test, as TRAIN.ENABLE and TEST.ENABLE say.

python tools/run_net.py --cfg NAME_OR_FILE OUTPUT_DIR runs/mine NUM_GPUS 2
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
