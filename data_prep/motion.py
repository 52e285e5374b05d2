"""The same as ``videofib prep motion``; --help lists its options.

python data_prep/motion.py --out data/motion ...
"""

from videofib.prep.sets.motion import main

if __name__ == "__main__":
    main()
