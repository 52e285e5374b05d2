"""The same as ``videofib bench model``: how fast complete models are on this machine.

python tools/benchmark_model.py --help
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["bench", "model", *sys.argv[1:]])
