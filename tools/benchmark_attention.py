"""The same as ``videofib bench attention``: how fast attention is on this machine.

python tools/benchmark_attention.py --help
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["bench", "attention", *sys.argv[1:]])
