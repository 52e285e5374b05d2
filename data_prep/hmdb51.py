"""The same as ``videofib prep hmdb51``; --help lists its options.

python data_prep/hmdb51.py --out data/hmdb51 ...
"""

from videofib.prep.sets.hmdb51 import main

if __name__ == "__main__":
    main()
