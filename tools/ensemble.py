"""The same as ``videofib ensemble``: the mean scores of several runs.

python tools/ensemble.py runs/a/test_scores.parquet runs/b/test_scores.parquet
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["ensemble", *sys.argv[1:]])
