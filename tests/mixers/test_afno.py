"""AFNO against sums written out frequency by frequency, and what its transform does to lines, frames and clips."""

import math
from itertools import product

import pytest
import torch
from einops import rearrange
from torch.autograd import gradcheck

from videofib.mixers import MIXERS, LayerSpec, MixerChoice
from videofib.models import TimeSformer

GRIDS = [(3, 4, 5), (2, 3, 4), (1, 3, 5), (1, 2, 4), (5, 1, 1), (6, 1, 1), (1, 1, 7), (1, 4, 1), (2, 1, 1), (1, 1, 1)]
JOINT = dict(img_size=16, patch_size=8, num_classes=3, num_frames=2, depth=1, num_heads=2, pooling="mean")


def build(grid=(2, 3, 4), dim=6, prefix=0, order="t h w", **options):
    torch.manual_seed(0)
    options = {"num_blocks": 2, **options}
    mixer = MIXERS["afno"].build(LayerSpec(dim, 1, prefix, grid, order=order), **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(std=0.5)
    return mixer.double()


def transform(x, sign):
    """Every axis but the last of a complex (t, h, w, d), by the matrix of the discrete Fourier transform."""
    for axis, n in enumerate(x.shape[:3]):
        turns = torch.outer(torch.arange(n), torch.arange(n)).double() / n
        matrix = torch.exp(sign * 2j * math.pi * turns) / math.sqrt(n)
        x = torch.tensordot(matrix, x, dims=([1], [axis])).movedim(0, axis)
    return x


def complex_relu(z, shrink=0.0):
    return torch.complex(torch.relu(z.real - shrink), torch.relu(z.imag - shrink))


def slow(mixer, tokens, grid):
    """One sequence (n, d) in the order t h w: all frequencies, the second half as conjugates of the first.

    Of frequencies that are their own conjugates along the half axis (0, and n/2 where n is even) the inverse takes the
    real part over that axis, so half of each value and half of its mirror's conjugate.
    """
    x = rearrange(tokens, "(t h w) d -> t h w d", **dict(zip("thw", grid, strict=True)))
    z = transform(x.to(torch.complex128), -1)
    half = 0 if grid[1:] == (1, 1) else 2
    kept = mixer.kept_modes or grid[half]
    w1, w2 = torch.complex(*mixer.w1), torch.complex(*mixer.w2)
    b1 = 0 if mixer.b1 is None else torch.complex(*mixer.b1)
    b2 = 0 if mixer.b2 is None else torch.complex(*mixer.b2)
    mixed = torch.zeros_like(z)
    for place in product(*map(range, grid)):
        n = grid[half]
        if place[half] > n // 2 or place[half] >= kept:
            continue
        blocks = z[place].reshape(mixer.num_blocks, -1)
        u = complex_relu(torch.einsum("kc,kco->ko", blocks, w1) + b1)
        v = torch.einsum("kc,kco->ko", u, w2) + b2
        v = (complex_relu(v, mixer.threshold) - complex_relu(-v, mixer.threshold)).flatten()
        mirror = tuple(-p % size for p, size in zip(place, grid, strict=True))
        weight = 0.5 if place[half] == -place[half] % n else 1.0
        mixed = mixed.index_put(tuple(torch.tensor([p]) for p in place), weight * v[None], accumulate=True)
        mixed = mixed.index_put(tuple(torch.tensor([p]) for p in mirror), weight * v.conj()[None], accumulate=True)
    y = rearrange(transform(mixed, 1).real, "t h w d -> (t h w) d")
    return y + tokens if mixer.residual else y


@pytest.mark.parametrize("options", [{}, dict(kept_modes=2, factor=2, residual=False, bias=False, threshold=0.1)])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_filter_is_the_sum_over_frequencies(grid, options):
    mixer = build(grid, **options)
    x = torch.randn(2, math.prod(grid), 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    y, _ = mixer(x, grid, None)
    expected = torch.stack([slow(mixer, tokens, grid) for tokens in x])
    torch.testing.assert_close(y, expected)
    leaves = [x, *mixer.parameters()]
    found = torch.autograd.grad((y * weight).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), leaves))


@pytest.mark.parametrize("grid", [(3, 1, 1), (1, 2, 3), (2, 2, 2)])
def test_gradients_are_numerically_right(grid):
    mixer = build(grid, dim=4)
    x = torch.randn(1, math.prod(grid), 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: mixer(x, grid, None)[0], x)


def test_both_orders_of_tokens_give_the_same():
    grid, axes = (2, 3, 5), dict(t=2, h=3, w=5)
    frame_after_frame, patch_after_patch = build(grid), build(grid, order="h w t")
    x = torch.randn(2, 30, 6, dtype=torch.float64)
    y, _ = frame_after_frame(x, grid, None)
    z, _ = patch_after_patch(rearrange(x, "b (t h w) d -> b (h w t) d", **axes), grid, None)
    torch.testing.assert_close(rearrange(z, "b (h w t) d -> b (t h w) d", **axes), y)


def test_lines_over_time_are_lines_of_patches():
    mixer = build()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(mixer(x, (7, 1, 1), None), mixer(x, (1, 1, 7), None), rtol=0, atol=0)


def test_prefix_tokens_are_left_out():
    grid = (2, 3, 4)
    x = torch.randn(2, 3 + 24, 6, dtype=torch.float64)
    y, _ = build(grid, prefix=3)(x, grid, None)
    expected, _ = build(grid)(x[:, 3:], grid, None)
    assert not y[:, :3].any()
    torch.testing.assert_close(y[:, 3:], expected)


def test_autocast_and_half_parameters_compute_in_32_bits():
    mixer, grid = build().float(), (2, 3, 4)
    x = torch.randn(1, 24, 6)
    expected, _ = mixer(x, grid, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mixer(x, grid, None)[0], expected, rtol=0, atol=0)
    halved, _ = mixer.to(torch.bfloat16)(x.bfloat16(), grid, None)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, rtol=0.1, atol=0.1)


def test_initial_values_are_the_published_ones():
    mixer = MIXERS["afno"].build(LayerSpec(256, 1, 0, (1, 2, 2)), num_blocks=4)
    for parameter in mixer.parameters():
        assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.15)
        assert abs(float(parameter.detach().mean())) < 0.005
    assert mixer.no_weight_decay() == {"b1", "b2"}


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
def test_it_serves_every_kind_of_attention(kind):
    names = {f"{where}_attention": "afno" for where in ("space", "time", "joint")}
    model = TimeSformer(**JOINT, embed_dim=16, attention_type=kind, class_token=False, **names)
    model(torch.randn(2, 3, 2, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_blocks=5), "embed_dim=6, num_blocks=5"),
        (dict(num_blocks=0), "num_blocks=0"),
        (dict(factor=0), "factor=0"),
        (dict(kept_modes=0), "kept_modes=0"),
        (dict(threshold=-1.0), "threshold=-1.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_class_token_cannot_be_the_pooling():
    layer = LayerSpec(16, 1, 1, (2, 2, 2), pooling="class_token")
    with pytest.raises(ValueError, match="pooling='mean'"):
        MixerChoice({"joint": "afno"}, {}).build("joint", layer)
