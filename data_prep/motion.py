"""The same as ``videofib prep motion``; --help lists its options.

python data_prep/motion.py --out data/motion ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "motion", *sys.argv[1:]])
