"""The same as ``videofib profile``: what a config's model costs.

python tools/profile_model.py --cfg NAME_OR_FILE TIMESFORMER.DEPTH 6
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["profile", *sys.argv[1:]])
