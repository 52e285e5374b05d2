"""The same as ``videofib prep nucla``; --help lists its options.

python data_prep/nucla.py --out data/nucla ...
"""

from videofib.prep.sets.nucla import main

if __name__ == "__main__":
    main()
