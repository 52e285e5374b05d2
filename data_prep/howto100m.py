"""The same as ``videofib prep howto100m``; --help lists its options.

python data_prep/howto100m.py --out data/howto100m ...
"""

from videofib.prep.sets.howto100m import main

if __name__ == "__main__":
    main()
