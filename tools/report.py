"""The same as ``videofib report``: the page of a run.

python tools/report.py OUTPUT_DIR
"""

from videofib.commands.report import main

if __name__ == "__main__":
    main()
