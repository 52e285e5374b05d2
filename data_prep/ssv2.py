"""The same as ``videofib prep ssv2``; --help lists its options.

python data_prep/ssv2.py --out data/ssv2 ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "ssv2", *sys.argv[1:]])
