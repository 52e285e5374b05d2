"""The same as ``videofib prep list``; --help lists its options.

python data_prep/folder.py --out data/list ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "list", *sys.argv[1:]])
