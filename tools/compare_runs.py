"""The same as ``videofib compare``: several runs side by side.

python tools/compare_runs.py OUTPUT_DIR OUTPUT_DIR --out FILE.html
"""

from videofib.commands.compare import main

if __name__ == "__main__":
    main()
