"""The same as ``videofib convert``: weights in another project's layout.

python tools/convert_weights.py --cfg runs/mine/config.yaml --weights FILE --to official --out FILE.pyth
"""

import sys

from videofib.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
