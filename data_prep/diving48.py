"""The same as ``videofib prep diving48``; --help lists its options.

python data_prep/diving48.py --out data/diving48 ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "diving48", *sys.argv[1:]])
