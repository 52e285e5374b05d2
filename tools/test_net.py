"""Test only: multi-view accuracy of the newest checkpoint in OUTPUT_DIR, or of TEST.CHECKPOINT_FILE_PATH.

python tools/test_net.py --cfg configs/<Dataset>/<experiment>.yaml OUTPUT_DIR runs/mine
"""

from videofib.run.main import main

if __name__ == "__main__":
    main(stages=("test",))
