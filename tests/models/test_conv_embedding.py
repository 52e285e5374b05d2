"""Fourier positions and the convolutional stem against formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from videofib.models.fourier_position import FourierPosition
from videofib.models.patch_embed import ConvStem


@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (7, 2)])
def test_positions_are_projected_sines_and_cosines_of_row_and_column(grid):
    torch.manual_seed(0)
    module = FourierPosition(10, num_features=6)
    found, (height, width) = module(*grid), grid
    assert found.shape == (1, 10, *grid)
    for i in range(height):
        for j in range(width):
            features = []
            for position, size in ((i + 1, height), (j + 1, width)):
                for pair in range(3):
                    angle = 2 * math.pi * position / (size + 1e-6) / 1e4 ** (2 * pair / 6)
                    features += [math.sin(angle), math.cos(angle)]
            expected = module.token_projection.weight[:, :, 0, 0] @ torch.tensor(features)
            torch.testing.assert_close(found[0, :, i, j], expected + module.token_projection.bias, atol=1e-5, rtol=1e-5)


def test_features_of_positions_keep_32_bits_under_autocast():
    module = FourierPosition(10)
    with torch.no_grad():
        module.token_projection.weight.copy_(torch.eye(64)[:10, :, None, None])
        module.token_projection.bias.zero_()
        expected = module(9, 4)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(9, 4)
    assert torch.equal(found, expected.bfloat16())
    assert FourierPosition(10).double()(2, 3).dtype == torch.float64


def test_an_odd_number_of_features_is_refused():
    with pytest.raises(ValueError, match="got 5"):
        FourierPosition(10, num_features=5)


@pytest.mark.parametrize(("patch_size", "widths"), [(16, (3, 6, 12, 24)), (8, (6, 12, 24)), (2, (24,))])
def test_the_stem_halves_frames_and_doubles_the_width(patch_size, widths):
    torch.manual_seed(0)
    stem = ConvStem((32, 48), patch_size, 3, 24, 1).train()
    video = torch.randn(2, 3, 2, 2 * patch_size, 3 * patch_size)
    found = stem(video)
    x = video.transpose(1, 2).flatten(0, 1)
    for index, width in enumerate(widths):
        weight = stem.proj[2 * index][0].weight
        assert weight.shape[0] == width
        x = F.conv2d(x if index == 0 else F.gelu(x), weight, stride=2, padding=1)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found, x.unflatten(0, (2, 2)).permute(0, 1, 3, 4, 2), atol=1e-5, rtol=1e-4)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"power of two.* got 12"):
        ConvStem((24, 24), 12, 3, 24, 1)
    with pytest.raises(ValueError, match="embed_dim / 8, got embed_dim=20"):
        ConvStem((32, 32), 16, 3, 20, 1)
    with pytest.raises(ValueError, match="20x16 pixels"):
        ConvStem((32, 32), 16, 3, 24, 1)(torch.zeros(1, 3, 1, 20, 16))
