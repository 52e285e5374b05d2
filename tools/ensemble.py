"""The same as ``videofib ensemble``: the mean scores of several runs.

python tools/ensemble.py runs/a/test_scores.parquet runs/b/test_scores.parquet
"""

from videofib.commands.ensemble import main

if __name__ == "__main__":
    main()
