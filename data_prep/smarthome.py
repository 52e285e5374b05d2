"""The same as ``videofib prep smarthome``; --help lists its options.

python data_prep/smarthome.py --out data/smarthome ...
"""

from videofib.prep.sets.smarthome import main

if __name__ == "__main__":
    main()
