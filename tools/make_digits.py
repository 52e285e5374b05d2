"""Write scikit-learn's handwritten digits, 1,797 scans of 8 x 8 pixels, as PNG files in folders of classes.

pip install scikit-learn
python tools/make_digits.py runs/digits/raw
videofib prep images --images runs/digits/raw --out runs/digits/data
videofib run --cfg Digits/TimeSformerXXS_joint_fibottention_1_16

The scans are those of sklearn.datasets.load_digits, which come with the package: the test set of "Optical Recognition
of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998). They are divided as they stand,
the first 1,097 for training, 200 for validation and the last 500 for testing: people wrote one after another, so the
last ones are mostly by others, which a random choice would not be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 1097, "val": 200, "test": 500}
_MOST = 16  # grey level of a full pixel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args()
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("error: scikit-learn is not installed; pip install scikit-learn") from None
    scans = load_digits()
    write(args.out, scans.images, scans.target)
    print(f"wrote {len(scans.images)} pictures to {args.out}")


def write(out: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write pictures (N, 8, 8) of 0 to 16, whose labels are (N,), as ``out/<split>/<label>/<number>.png``."""
    splits = np.repeat(list(SPLITS), list(SPLITS.values()))
    for number, (split, image, label) in enumerate(zip(splits, images, labels, strict=True)):
        path = out / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / _MOST)).astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
