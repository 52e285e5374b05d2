"""The same as ``videofib test``: multi-view accuracy of a checkpoint.

python tools/test_net.py --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["test", *sys.argv[1:]])
