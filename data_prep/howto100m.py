"""The same as ``videofib prep howto100m``; --help lists its options.

python data_prep/howto100m.py --out data/howto100m ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "howto100m", *sys.argv[1:]])
