"""The same as ``videofib prep folder``; --help lists its options.

python data_prep/folder.py --out data/folder ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "folder", *sys.argv[1:]])
