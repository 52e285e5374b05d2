"""Crops, scaling, normalisation and augmentation of clips."""

import random

import numpy as np
import pytest
import torch

from videofib.data.clips.transforms import (
    TrainTransform,
    ViewTransform,
    cut,
    denormalize,
    normalize,
    resize,
    to_tensor,
)
from videofib.data.sampling import random_box, random_square

MEAN, STD = [0.45, 0.4, 0.5], [0.225, 0.2, 0.25]
PLAIN = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalised values are the pixels' own


def ramp(frames=4, height=60, width=80):
    """Pixel (t, y, x) is (x, y, t): every value shows where it came from."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([x, y, t], -1).astype(np.uint8)


def test_normalize_by_hand():
    clip = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    clip[1, 2] = 255
    out = normalize(clip, MEAN, STD)
    assert out.shape == (3, 2, 4, 5)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    torch.testing.assert_close(out[0], torch.full((2, 4, 5), -0.45 / 0.225))
    torch.testing.assert_close(out[2, 1], torch.full((4, 5), (1 - 0.5) / 0.25))


def test_denormalize_undoes_normalize_for_every_pixel_value():
    clip = torch.arange(256, dtype=torch.uint8).view(2, 1, 8, 16).repeat(1, 3, 1, 1)
    frames = denormalize(normalize(clip, MEAN, STD), MEAN, STD)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, clip.permute(0, 2, 3, 1).numpy())
    beyond = denormalize(torch.tensor([-9.0, 9.0]).view(1, 2, 1, 1).expand(3, 2, 1, 1), MEAN, STD)
    assert beyond[:, 0, 0].tolist() == [[0] * 3, [255] * 3]


def test_drawn_boxes_are_what_the_views_show():
    frames = ramp(1, 60, 80)
    for more in ({}, {"relative_areas": [0.2, 0.9], "relative_aspects": [0.5, 2.0]}):
        transform = TrainTransform(40, [40, 56], flip=True, **PLAIN, **more)
        for seed in range(30):
            (top, left, height, width), mirrored = transform.draw_box(60, 80, random.Random(seed))
            x, y = transform(frames, random.Random(seed))[:2, 0]
            assert y[0, 0] == pytest.approx(top, abs=1.5)
            assert y[-1, 0] == pytest.approx(top + height - 1, abs=1.5)
            assert x[0, -1 if mirrored else 0] == pytest.approx(left, abs=1.5)
            assert x[0, 0 if mirrored else -1] == pytest.approx(left + width - 1, abs=1.5)
    transform = ViewTransform(40, 45, 3, **PLAIN)
    for (top, left, height, width), view in zip(transform.boxes(60, 80), transform(frames, [[0]]), strict=True):
        assert view[0, 0, 0, [0, -1]].tolist() == pytest.approx([left, left + width - 1], abs=1.5)
        assert view[1, 0, [0, -1], 0].tolist() == pytest.approx([top, top + height - 1], abs=1.5)


def test_resize_is_plain_bilinear():
    clip = torch.randint(0, 256, (2, 13, 17, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(clip.double(), size=(29, 23), mode="bilinear", align_corners=False)
    assert (resize(clip, 29, 23).double() - expected).abs().max() <= 1.01
    assert resize(clip, 13, 17) is clip


def test_random_crop_without_scaling_cuts_pixels_everywhere():
    rng, corners = random.Random(0), set()
    for _ in range(300):
        crop = cut(to_tensor(ramp()), random_square(60, 80, 56, 60, rng), 56)
        x, y = int(crop[0, 0, 0, 0]), int(crop[0, 1, 0, 0])
        assert torch.equal(crop, to_tensor(ramp())[..., y : y + 56, x : x + 56])
        corners.add((x, y))
    assert {x for x, _ in corners} == set(range(80 - 56 + 1))
    assert {y for _, y in corners} == set(range(60 - 56 + 1))


def test_cropping_first_differs_from_scaling_first_by_less_than_a_pixel():
    clip = to_tensor(ramp(1, 60, 80))
    for seed in range(50):
        crop = cut(clip, random_square(60, 80, 90, 120, random.Random(seed)), 90).float()
        rng = random.Random(seed)
        top, left = rng.randint(0, 120 - 90), rng.randint(0, 160 - 90)
        expected = resize(clip, 120, 160)[..., top : top + 90, left : left + 90].float()
        assert (crop - expected).abs().max() <= 1.5  # neighbouring pixels differ by 1, and values are rounded


@pytest.mark.parametrize("shape", [(16, 640), (640, 16), (16, 16), (1, 1), (241, 319)])
def test_any_frame_size_gives_the_crop_size(shape):
    frames = np.zeros((2, *shape, 3), np.uint8)
    train = TrainTransform(32, [32, 40], flip=True, **PLAIN)
    assert train(frames, random.Random(0)).shape == (3, 2, 32, 32)
    for spec in ("rand-m10-n4", "trivial", "augmix"):
        everything = augmenting(augment=spec, **EVERYTHING)
        assert everything(frames, random.Random(0)).shape == (3, 2, 32, 32)
    assert ViewTransform(32, 32, 3, **PLAIN)(frames, [[0, 1]]).shape == (3, 3, 2, 32, 32)


def test_flip_mirrors_half_of_the_clips():
    transform = TrainTransform(60, [60, 60], flip=True, **PLAIN)
    frames = np.repeat(ramp(1, 60, 60), 2, 0)
    mirrored = [bool(transform(frames, random.Random(seed))[0, 0, 0, 0] > 30) for seed in range(200)]
    assert 70 < sum(mirrored) < 130
    never = TrainTransform(60, [60, 60], flip=False, **PLAIN)
    assert not any(never(frames, random.Random(seed))[0, 0, 0, 0] > 30 for seed in range(50))


def augmenting(**kwargs):
    settings = {"augment": "rand-m9-n2", "erase_prob": 1.0, "erase_mode": "rand"} | kwargs
    return TrainTransform(32, [32, 48], flip=True, mean=MEAN, std=STD, **settings)


EVERYTHING = {
    "relative_areas": [0.1, 1.0],
    "relative_aspects": [0.75, 1.3333],
    "color_strength": 0.4,
    "erase_count": 3,
}


@pytest.mark.parametrize("spec", ["", "rand-m9-n2", "trivial", "augmix"])
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_same_state_gives_the_same_view_and_global_generators_are_left_alone(spec, more):
    frames = np.random.default_rng(0).integers(0, 256, (4, 60, 80, 3), dtype=np.uint8)
    transform = augmenting(augment=spec, erase_mode="pixel", **more)
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    first = transform(frames, random.Random(5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    torch.manual_seed(2)
    assert torch.equal(transform(frames, random.Random(5)), first)
    assert not torch.equal(transform(frames, random.Random(6)), first)


@pytest.mark.parametrize("spec", ["", "rand-m9-n2", "trivial", "augmix"])
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "everything"])
def test_all_frames_of_a_clip_are_augmented_identically(spec, more):
    frames = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 60, 80, 3), dtype=np.uint8), 4, 0)
    for seed in range(30):
        view = augmenting(augment=spec, **more)(frames, random.Random(seed))
        assert torch.equal(view, view[:, :1].expand_as(view))


def test_augmentations_that_are_off_draw_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (4, 60, 80, 3), dtype=np.uint8)
    transform = TrainTransform(32, [32, 48], flip=True, mean=MEAN, std=STD)
    for seed in range(20):
        rng, used = random.Random(seed), random.Random(seed)
        clip = cut(to_tensor(frames), random_square(60, 80, 32, rng.randint(32, 48), rng), 32)
        clip = clip.flip(-1) if rng.random() < 0.5 else clip
        assert torch.equal(transform(frames, used), normalize(clip, MEAN, STD))
        rng.random()  # for erasing, which was always asked for
        assert used.getstate() == rng.getstate()


def test_a_resized_crop_shows_the_box_that_was_drawn():
    clip = to_tensor(ramp(2, 60, 80))
    for seed in range(50):
        top, left, height, width = random_box(60, 80, (0.2, 0.9), (0.5, 2.0), random.Random(seed))
        view = cut(clip, (top, left, height, width), 40)
        assert view.shape == (2, 3, 40, 40)
        across, down = view[0, 0, 20].float(), view[0, 1, :, 20].float()
        assert across[0] == pytest.approx(left, abs=1.5)
        assert across[-1] == pytest.approx(left + width - 1, abs=1.5)
        assert down[0] == pytest.approx(top, abs=1.5)
        assert down[-1] == pytest.approx(top + height - 1, abs=1.5)
    full = cut(clip, random_box(60, 80, (1.0, 1.0), (4 / 3, 4 / 3), random.Random(0)), 60)
    assert torch.equal(full, resize(clip, 60, 60))


def test_erasing_happens_as_often_as_asked():
    frames = np.full((2, 40, 40, 3), 128, np.uint8)
    transform = TrainTransform(40, [40, 40], flip=False, mean=[0] * 3, std=[1] * 3, erase_prob=0.25, erase_mode="const")
    assert 30 < sum(bool((transform(frames, random.Random(s)) == 0).any()) for s in range(200)) < 70


def test_views_are_temporal_major_and_cut_where_they_should_be():
    frames = ramp(5, 60, 80)
    views = ViewTransform(60, 60, 3, **PLAIN)(frames, [[0, 1], [3, 4]])
    assert views.shape == (6, 3, 2, 60, 60)
    for v, (clip, crop) in enumerate([(c, s) for c in range(2) for s in range(3)]):
        assert views[v, 2, :, 0, 0].tolist() == [[0, 1], [3, 4]][clip]
        assert views[v, 0, 0, 0, 0] == [0, 10, 20][crop]  # left edge
    centre = ViewTransform(40, 60, 1, **PLAIN)(frames, [[2]])
    assert centre.shape == (1, 3, 1, 40, 40)
    assert centre[0, :, 0, 0, 0].tolist() == [20, 10, 2]


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="crop_size=64"):
        TrainTransform(64, [32, 48], flip=False, **PLAIN)
    with pytest.raises(ValueError, match="64 does not fit a short side of 32"):
        ViewTransform(64, 32, 1, **PLAIN)
    with pytest.raises(ValueError, match="'noise'"):
        TrainTransform(32, [32, 48], flip=False, erase_mode="noise", **PLAIN)
    with pytest.raises(ValueError, match=r"relative_areas=\[0.1, 1.0\] and relative_aspects=\(\)"):
        TrainTransform(32, [32, 48], flip=False, relative_areas=[0.1, 1.0], **PLAIN)
