"""The same as ``videofib prep ssv2``; --help lists its options.

python data_prep/ssv2.py --out data/ssv2 ...
"""

from videofib.prep.sets.ssv2 import main

if __name__ == "__main__":
    main()
