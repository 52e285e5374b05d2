"""The same as ``videofib prep smarthome``; --help lists its options.

python data_prep/smarthome.py --out data/smarthome ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "smarthome", *sys.argv[1:]])
