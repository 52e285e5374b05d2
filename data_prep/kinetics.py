"""The same as ``videofib prep kinetics``; --help lists its options.

python data_prep/kinetics.py --out data/kinetics ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "kinetics", *sys.argv[1:]])
