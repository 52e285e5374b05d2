"""The same as ``videofib train``: train.

python tools/train_net.py --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
torchrun --nproc-per-node 2 tools/train_net.py --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
