"""The convolutional MLP against a loop over tokens, with prefix tokens, clips and both orders of tokens."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from videofib.models.conv_mlp import ConvMlp

GRID, AXES = (2, 3, 4), dict(t=2, h=3, w=4)


def build(**options):
    torch.manual_seed(0)
    return ConvMlp(4, 6, order=options.pop("order", "t h w"), **options).double()


def slow(mlp, x, grid, num_prefix):
    """One sample, (p + n, d) in the order t h w."""
    hidden = mlp.fc1(x)
    (_, h, w), reach, rows = grid, mlp.dwconv.kernel_size[0] // 2, list(hidden[:num_prefix])
    for p in range(len(x) - num_prefix):
        frame, row, column = p // (h * w), p // w % h, p % w
        total = mlp.dwconv.bias + (hidden[num_prefix + p] if mlp.residual else 0)
        for r in range(max(row - reach, 0), min(row + reach + 1, h)):
            for c in range(max(column - reach, 0), min(column + reach + 1, w)):
                weight = mlp.dwconv.weight[:, 0, r - row + reach, c - column + reach]
                total = total + weight * hidden[num_prefix + frame * h * w + r * w + c]
        rows.append(total)
    return mlp.fc2(F.gelu(torch.stack(rows)))


@pytest.mark.parametrize("num_prefix", [0, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("residual", [False, True])
def test_the_hidden_layer_sums_over_neighbours_in_its_frame(residual, kernel, num_prefix):
    mlp = build(residual=residual, kernel=kernel, num_prefix_tokens=num_prefix)
    x = torch.randn(2, num_prefix + 24, 4, dtype=torch.float64, requires_grad=True)
    y, weight = mlp(x, GRID), torch.randn(2, num_prefix + 24, 4, dtype=torch.float64)
    expected = torch.stack([slow(mlp, sample, GRID, num_prefix) for sample in x])
    torch.testing.assert_close(y, expected)
    leaves = [x, *mlp.parameters()]
    found = torch.autograd.grad((y * weight).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), leaves))


def test_both_orders_of_tokens_give_the_same():
    x = torch.randn(2, 24, 4, dtype=torch.float64)
    z = build(order="h w t")(rearrange(x, "b (t h w) d -> b (h w t) d", **AXES), GRID)
    torch.testing.assert_close(rearrange(z, "b (h w t) d -> b (t h w) d", **AXES), build()(x, GRID))


def test_dropout_acts_in_training_alone():
    mlp, x = build(drop=0.5), torch.randn(2, 24, 4, dtype=torch.float64)
    assert (mlp(x, GRID) == 0).any()
    torch.testing.assert_close(mlp.eval()(x, GRID), build()(x, GRID))


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel=4"):
        build(kernel=4)
