"""Train and then test, as the config's TRAIN.ENABLE and TEST.ENABLE say.

python tools/run_net.py --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine NUM_GPUS 2
"""

from videofib.run.main import main

if __name__ == "__main__":
    main()
