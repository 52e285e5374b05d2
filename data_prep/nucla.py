"""The same as ``videofib prep nucla``; --help lists its options.

python data_prep/nucla.py --out data/nucla ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "nucla", *sys.argv[1:]])
