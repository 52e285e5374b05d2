"""The same as ``videofib prep folder``; --help lists its options.

python data_prep/folder.py --out data/folder ...
"""

from videofib.prep.sets.folder import main

if __name__ == "__main__":
    main()
