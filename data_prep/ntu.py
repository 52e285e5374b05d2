"""The same as ``videofib prep ntu``; --help lists its options.

python data_prep/ntu.py --out data/ntu ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "ntu", *sys.argv[1:]])
