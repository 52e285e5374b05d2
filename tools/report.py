"""The same as ``videofib report``: the page of a run.

python tools/report.py OUTPUT_DIR
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
