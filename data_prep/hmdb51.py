"""The same as ``videofib prep hmdb51``; --help lists its options.

python data_prep/hmdb51.py --out data/hmdb51 ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["prep", "hmdb51", *sys.argv[1:]])
