"""The same as ``videofib submit``: a run as a Slurm job.

python tools/submit.py --nodes 2 --gpus 8 --partition gpu --hours 24 --cfg NAME_OR_FILE OUTPUT_DIR runs/mine
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["submit", *sys.argv[1:]])
