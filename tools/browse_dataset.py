"""The same as ``videofib browse``: clips as a config reads, crops and augments them.

python tools/browse_dataset.py --cfg NAME_OR_FILE --split train --out browse KEY VALUE ...
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["browse", *sys.argv[1:]])
