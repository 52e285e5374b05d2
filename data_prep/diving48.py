"""The same as ``videofib prep diving48``; --help lists its options.

python data_prep/diving48.py --out data/diving48 ...
"""

from videofib.prep.sets.diving48 import main

if __name__ == "__main__":
    main()
