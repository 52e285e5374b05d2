"""Efficient attention equals sums written out, whatever the order of tokens."""

import pytest
import torch

from videofib.mixers import LayerSpec, MixerChoice
from videofib.mixers.efficient import EfficientAttention

LAYER = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=2, grid=(1, 3, 3))
WIDTHS = [{}, dict(key_width=3), dict(key_width=12, value_width=9)]


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    return EfficientAttention(layer, **options).double()


def shares(numbers):
    return [number.exp() / sum(other.exp() for other in numbers) for number in numbers]


def one_head(q, k, v):
    """(S, D), (S, D), (S, E) -> (S, E)."""
    contexts = []
    for feature in range(k.shape[1]):
        weights = shares([key[feature] for key in k])
        contexts.append(sum(weight * value for weight, value in zip(weights, v, strict=True)))
    return torch.stack([sum(w * context for w, context in zip(shares(query), contexts, strict=True)) for query in q])


def reference(mixer, x):
    out = []
    for sequence in x:
        q, k, v = (sequence @ mixer.qkv.weight.T + mixer.qkv.bias).split(mixer.widths, dim=1)
        parts = zip(*(y.chunk(mixer.num_heads, dim=1) for y in (q, k, v)), strict=True)
        heads = torch.cat([one_head(*part) for part in parts], dim=1)
        out.append(heads @ mixer.proj.weight.T + mixer.proj.bias)
    return torch.stack(out)


@pytest.mark.parametrize("widths", WIDTHS)
def test_output_and_gradients_equal_sums_written_out(widths):
    mixer, x = built(**widths), torch.randn(2, 11, 6, dtype=torch.float64, requires_grad=True)
    y, expected = mixer(x, LAYER.grid, None)[0], reference(mixer, x)
    torch.testing.assert_close(y, expected)
    weights, leaves = torch.randn_like(y), [x, *mixer.parameters()]
    found = torch.autograd.grad((y * weights).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), leaves))


def test_permuted_tokens_give_permuted_outputs():
    mixer, x, order = built(), torch.randn(2, 11, 6, dtype=torch.float64), torch.randperm(11)
    torch.testing.assert_close(mixer(x[:, order], LAYER.grid, None)[0], mixer(x, LAYER.grid, None)[0][:, order])


def test_equal_values_come_out_as_they_are():
    """Both softmaxes give weights that sum to 1."""
    mixer, x = built(), torch.randn(1, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        mixer.qkv.weight[12:] = 0
        mixer.qkv.bias[12:] = torch.arange(6.0)
    expected = mixer.proj(torch.arange(6.0, dtype=torch.float64)).expand(1, 7, 6)
    torch.testing.assert_close(mixer(x, (1, 1, 5), None)[0], expected)


@pytest.mark.parametrize("widths", WIDTHS)
def test_one_layer_serves_frames_and_lines_over_time(widths):
    mixer = built(LayerSpec(dim=6, num_heads=3, num_prefix_tokens=0, grid=(4, 1, 1)), **widths)
    for grid in ((4, 1, 1), (7, 1, 1), (1, 3, 5), (2, 3, 3)):
        x = torch.randn(2, grid[0] * grid[1] * grid[2], 6, dtype=torch.float64)
        torch.testing.assert_close(mixer(x, grid, None)[0], reference(mixer, x))


def test_multiply_adds_count_the_widths():
    mixer = built(key_width=3, value_width=12)
    assert EfficientAttention.multiply_adds(mixer, (1, 3, 3)) == 11 * 6 * (3 + 3 + 12 + 12) + 2 * 11 * (1 * 4) * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(key_width=4), "key_width must be divisible by num_heads, got key_width=4, num_heads=3"),
        (dict(value_width=-3), "value_width must be divisible by num_heads, got value_width=-3"),
    ],
)
def test_bad_widths_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_dropout_of_weights_is_refused():
    layer = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=0, grid=(1, 3, 3), attn_drop=0.1)
    with pytest.raises(ValueError, match=r"attn_drop=0\.1; set attn_drop=0"):
        MixerChoice({"space": "efficient"}, {}).build("space", layer)
