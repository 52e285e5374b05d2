"""The same as ``videofib prep ucf101``; --help lists its options.

python data_prep/ucf101.py --out data/ucf101 ...
"""

from videofib.prep.sets.ucf101 import main

if __name__ == "__main__":
    main()
