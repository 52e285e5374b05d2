"""Augmentation of clips beyond crops and flips: colour, learned policies, erasing.

Random values are drawn once a clip and hold for all its frames, so identical frames stay identical. Operations that
measure a picture first (contrast about its mean, equalising its histogram) measure each frame.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

AutoAugment = Callable[[tv_tensors.Video], tv_tensors.Video]

_COLOR_CHANGES = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)


def color_jitter(clip: Tensor, strength: float, rng: random.Random) -> Tensor:
    """Change brightness, contrast and saturation, in random order, each by a factor of 1 - strength to 1 + strength.

    As timm's and torchvision's ColorJitter with one strength; hue stays. (T, C, H, W) uint8 -> the same shape.
    """
    for change in rng.sample(_COLOR_CHANGES, len(_COLOR_CHANGES)):
        clip = change(clip, rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return clip


def build_auto_augment(spec: str, mean: Sequence[float]) -> AutoAugment:
    """The augmentation of torchvision that a text names; uncovered pixels take the mean colour.

    ``rand-m<magnitude 0 to 10>-n<operations>``: RandAugment (arXiv 1909.13719); ``trivial``: TrivialAugment, wide
    (arXiv 2103.10158); ``augmix``: AugMix (arXiv 1912.02781), its mixed picture without the consistency loss.

    Raises:
        ValueError: an unknown augmentation.
    """
    settings = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": [255 * value for value in mean]}
    if spec == "trivial":
        return v2.TrivialAugmentWide(**settings)
    if spec == "augmix":
        return v2.AugMix(**settings)
    match = re.fullmatch(r"rand-m(\d+)-n(\d+)", spec)
    if match is None or int(match[1]) > 10:
        raise ValueError(
            f"cannot read the augmentation {spec!r}; expected rand-m<0 to 10>-n<operations>, trivial or augmix"
        )
    bins = 31
    magnitude = round(int(match[1]) / 10 * (bins - 1))
    return v2.RandAugment(num_ops=int(match[2]), magnitude=magnitude, num_magnitude_bins=bins, **settings)


def auto_augment(clip: Tensor, augment: AutoAugment, rng: random.Random) -> Tensor:
    """Apply what ``build_auto_augment`` built. (T, C, H, W) uint8 -> the same shape."""
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator: seed it for this call
        torch.manual_seed(rng.getrandbits(63))
        # unless the clip is marked as a video, AugMix draws new weights for each frame
        return augment(tv_tensors.Video(clip)).as_subclass(Tensor)


# erase mode -> shape of the noise that fills a box of (C, T, H, W)
ERASE_MODES = {
    "const": lambda c, t, h, w: (),
    "rand": lambda c, t, h, w: (c, 1, 1, 1),
    "pixel": lambda c, t, h, w: (c, t, h, w),
}


def random_erase(clip: Tensor, mode: str, max_count: int, rng: random.Random) -> None:
    """Overwrite random boxes, the same in all frames, in place. clip: (C, T, H, W), normalised.

    Random Erasing (arXiv 1708.04896) with timm's ranges: up to ``max_count`` boxes, which together cover 2 % to 33 % of
    the area and have sides of ratio 0.3 to 3.3. Filled with ``const``: 0, ``rand``: one normally distributed colour,
    ``pixel``: normal noise.
    """
    c, t, height, width = clip.shape
    count = rng.randint(1, max_count)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    for _ in range(count):
        for _ in range(10):  # a box of the drawn shape may not fit
            area = rng.uniform(0.02, 1 / 3) * height * width / count
            ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = rng.randint(0, height - h), rng.randint(0, width - w)
                box = clip[..., top : top + h, left : left + w]
                box.copy_(torch.randn(ERASE_MODES[mode](c, t, h, w), generator=generator) if mode != "const" else 0)
                break
