"""Colour jitter, learned policies and erasing of clips."""

import random

import pytest
import torch
from torchvision.transforms.v2 import functional

from videofib.data.clips.augment import auto_augment, build_auto_augment, color_jitter, random_erase

MEAN = [0.45, 0.4, 0.5]


def noise(frames=3, height=24, width=32):
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=torch.manual_seed(0))


def measure(clip):
    """Brightness, contrast and saturation: each changes by its own factor alone, the last two by earlier ones, too."""
    grey = functional.rgb_to_grayscale(clip.float())
    return torch.stack([grey.mean(), grey.std(), (clip.float() - grey).std()])


def test_colour_jitter_draws_three_factors():
    clip = noise(2, 40, 40).mul(0.4).add(60).to(torch.uint8)  # far enough from black and white to be never cut off
    found = torch.stack([measure(color_jitter(clip, 0.4, random.Random(seed))) for seed in range(300)]) / measure(clip)
    brightness = found[:, 0]
    contrast = found[:, 1] / brightness
    saturation = found[:, 2] / found[:, 1]
    factors = torch.stack([brightness, contrast, saturation])
    assert (factors.min(1).values - 0.6).abs().max() < 0.03
    assert (factors.max(1).values - 1.4).abs().max() < 0.03
    assert (factors.mean(1) - 1).abs().max() < 0.04
    assert (factors.corrcoef() - torch.eye(3)).abs().max() < 0.2  # each for itself


def test_colour_jitter_keeps_grey_grey_and_never_inverts_a_picture():
    grey = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    for seed in range(50):
        out = color_jitter(grey, 1.5, random.Random(seed))  # factors from 0, not from -0.5
        assert len(out.unique()) == 1


@pytest.mark.parametrize(
    "spec", ["rand-m11-n2", "rand-m5", "rand-m9-mstd0.5-n2", "augmix-m3", "trivially", "autoaugment"]
)
def test_unknown_augmentations_are_refused_with_the_known_forms(spec):
    with pytest.raises(ValueError, match=f"'{spec}'; expected rand-m<0 to 10>-n<operations>, trivial or augmix"):
        build_auto_augment(spec, MEAN)


def test_rand_augment_reads_timms_notation():
    transform = build_auto_augment("rand-m7-n2", MEAN)
    assert (transform.num_ops, transform.magnitude) == (2, 21)  # 7 of 10 = 21 of 30


def test_uncovered_pixels_take_the_mean_colour():
    white = torch.full((2, 3, 24, 32), 255, dtype=torch.uint8)
    fill = torch.tensor([255 * value for value in MEAN])
    for spec in ("rand-m10-n1", "trivial"):
        augment, seen = build_auto_augment(spec, MEAN), []
        for seed in range(60):
            out = auto_augment(white, augment, random.Random(seed))[0].float()
            corners = out[:, [0, 0, -1, -1], [0, -1, 0, -1]]
            seen.append(((corners - fill[:, None]).abs().max(0).values < 2).any())
        assert 10 < sum(seen) < 40


@pytest.mark.parametrize("spec", ["rand-m9-n2", "trivial", "augmix"])
def test_policies_change_most_clips_and_keep_their_layout(spec):
    clip, augment = noise(), build_auto_augment(spec, MEAN)
    outs = [auto_augment(clip, augment, random.Random(seed)) for seed in range(40)]
    assert all(out.shape == clip.shape and out.dtype == torch.uint8 and type(out) is torch.Tensor for out in outs)
    assert sum(not torch.equal(out, clip) for out in outs) > 28
    assert torch.equal(clip, noise())  # the clip itself is unchanged


@pytest.mark.parametrize(("mode", "distinct"), [("const", 1), ("rand", 3), ("pixel", None)])
def test_random_erase_fills_one_box_of_timms_size(mode, distinct):
    for seed in range(40):
        clip = torch.full((3, 2, 64, 64), 9.0)
        random_erase(clip, mode, 1, random.Random(seed))
        erased = (clip != 9).all(0)
        assert torch.equal(erased[0], erased[1])
        rows, columns = erased[0].any(1).sum(), erased[0].any(0).sum()
        assert rows * columns == erased[0].sum()  # one full box
        assert 0.015 < erased[0].float().mean() < 0.36
        if distinct:
            assert len(clip[:, erased].unique()) == distinct
