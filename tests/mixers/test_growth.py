"""How the cost of each mixer grows with the number of tokens: as its page says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import videofib.mixers
from videofib.mixers import MIXERS, LayerSpec

FRAMES = (8, 32, 96)  # of 14 x 14 patches: 1,568 to 18,816 tokens
SQUARE = {"dense", "dape", "lit", "semanir", "shunted", "topk"}  # of all pairs, or of a share of them
PAGE = (Path(videofib.mixers.__file__).parent / "README.md").read_text(encoding="utf-8")


def multiply_adds(name, frames):
    grid = (frames, 14, 14)
    with torch.device("meta"):
        mixer = MIXERS[name].build(LayerSpec(384, 6, num_prefix_tokens=1, grid=grid))
    return MIXERS[name].multiply_adds(mixer, grid)


def slope(name):
    """The exponent of multiply-adds over tokens, fitted."""
    tokens = [196 * frames for frames in FRAMES]
    return np.polyfit(np.log(tokens), np.log([multiply_adds(name, frames) for frames in FRAMES]), 1)[0]


@pytest.mark.parametrize("name", [name for name in MIXERS if name not in {"none", *SQUARE}])
def test_linear_ones_grow_linearly(name):
    assert slope(name) <= 1.1


@pytest.mark.parametrize("name", sorted(SQUARE))
def test_the_others_do_not(name):
    assert slope(name) > 1.3  # projections, which are linear, are part of it


def test_the_pages_multiply_adds_are_those_of_the_formulas():
    rows = re.findall(r"^\| `(\w+)` \| \d{4} \|(.*)\|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(MIXERS)
    for name, cells in rows:
        if name == "none":
            continue
        written = [float(cell) for cell in cells.split("|")[:3]]
        found = [12 * multiply_adds(name, frames) / 1e9 for frames in (1, 8, 32)]
        assert written == pytest.approx(found, rel=0.01, abs=0.006), name
