"""The same as ``videofib prep images``; --help lists its options.

python data_prep/images.py --out data/images ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "images", *sys.argv[1:]])
