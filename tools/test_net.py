"""The same as ``videofib test``: multi-view accuracy of a checkpoint.

python tools/test_net.py --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["test", *sys.argv[1:]])
