"""The same as ``videofib prep ntu``; --help lists its options.

python data_prep/ntu.py --out data/ntu ...
"""

from videofib.prep.sets.ntu import main

if __name__ == "__main__":
    main()
