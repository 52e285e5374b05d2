"""The same as ``videofib compare``: several runs side by side.

python tools/compare_runs.py OUTPUT_DIR OUTPUT_DIR --out FILE.html
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
