"""The same as ``videofib prep ucf101``; --help lists its options.

python data_prep/ucf101.py --out data/ucf101 ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "ucf101", *sys.argv[1:]])
