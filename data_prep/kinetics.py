"""The same as ``videofib prep kinetics``; --help lists its options.

python data_prep/kinetics.py --out data/kinetics ...
"""

from videofib.prep.sets.kinetics import main

if __name__ == "__main__":
    main()
