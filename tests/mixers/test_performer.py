"""Performer equals its equations written out, estimates softmax attention, and redraws its features safely."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from videofib.mixers import LayerSpec
from videofib.mixers.performer import (
    Performer,
    attention_by_features,
    orthogonal_rows,
    redrawn,
    relu_features,
    softmax_features,
)

LAYER = LayerSpec(dim=6, num_heads=2, num_prefix_tokens=2, grid=(1, 3, 3))


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    return Performer(layer, **{"features": 5, **options}).double()


def tokens(number=11):
    return torch.randn(2, number, 6, dtype=torch.float64)


def exponents(rows, projection):
    """Of each row (D,) and feature: w·x / D^¼."""
    return [[(w * x).sum() / len(x) ** 0.25 for w in projection] for x in rows]


def features(rows, projection, kernel, of_keys):
    if kernel == "relu":
        return [[max(e, 0 * e) + 1e-3 for e in row] for row in exponents(rows, projection)]
    table = exponents(rows, projection)
    of_all = max(e.detach() for row in table for e in row)
    result = []
    for x, row in zip(rows, table, strict=True):
        largest = of_all if of_keys else max(e.detach() for e in row)
        norm = (x * x).sum() / len(x) ** 0.5
        result.append([((e - norm / 2 - largest).exp() + 1e-4) / len(projection) ** 0.5 for e in row])
    return result


def one_head(q, k, v, mixer):
    """(S, D) of a head, with the matrix of weights that the layer never forms."""
    queries = features(q, mixer.projection_matrix, mixer.kernel, of_keys=False)
    keys = features(k, mixer.projection_matrix, mixer.kernel, of_keys=True)
    rows = []
    for query in queries:
        weights = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
        rows.append(sum(weight * value for weight, value in zip(weights, v, strict=True)) / sum(weights))
    return torch.stack(rows)


def reference(mixer, x):
    out = []
    for sequence in x:
        qkv = (sequence @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, dim=1)
        parts = zip(*(y.chunk(mixer.num_heads, dim=1) for y in qkv), strict=True)
        out.append(torch.cat([one_head(*part, mixer) for part in parts], dim=1) @ mixer.proj.weight.T + mixer.proj.bias)
    return torch.stack(out)


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_output_and_gradients_equal_the_equations_written_out(kernel):
    mixer, x = built(kernel=kernel).eval(), tokens().requires_grad_()
    y, expected = mixer(x, LAYER.grid, None)[0], reference(mixer, x)
    torch.testing.assert_close(y, expected)
    weights, leaves = torch.randn_like(y), [x, *mixer.parameters()]
    found = torch.autograd.grad((y * weights).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), leaves))


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_permuted_tokens_give_permuted_outputs_on_any_grid(kernel):
    mixer = built(kernel=kernel).eval()
    for grid in ((5, 1, 1), (1, 3, 2), (2, 3, 3)):
        x = tokens(2 + grid[0] * grid[1] * grid[2])
        order = torch.randperm(x.shape[1])
        torch.testing.assert_close(mixer(x[:, order], grid, None)[0], mixer(x, grid, None)[0][:, order])


def test_many_features_estimate_softmax_attention():
    """Of short queries and keys: far from the largest exponent a feature is little more than its epsilon."""
    torch.manual_seed(0)
    q, k, v = 0.5 * torch.randn(3, 1, 2, 9, 4, dtype=torch.float64)
    projection = orthogonal_rows(40000, 4, seed=1).double()
    query, key = (softmax_features(x, projection, of_keys=of_keys) for x, of_keys in ((q, False), (k, True)))
    expected = torch.softmax(q @ k.transpose(2, 3) / 4**0.5, dim=-1) @ v
    torch.testing.assert_close(attention_by_features(query, key, v), expected, rtol=0, atol=0.01)


def test_features_of_queries_and_keys_that_are_far_from_zero_stay_finite():
    x, projection = 100 * torch.randn(1, 1, 7, 4), orthogonal_rows(8, 4, seed=0)
    for of_keys in (False, True):
        found = softmax_features(x, projection, of_keys=of_keys)
        assert found.isfinite().all()
        assert (found > 0).all()
    assert (relu_features(x, projection) > 0).all()


def test_rows_are_orthogonal_within_each_basis_and_as_long_as_normal_vectors():
    rows = orthogonal_rows(11, 4, seed=3)
    for some in rows.split(4):
        products = some @ some.T
        torch.testing.assert_close(products, products.diag().diag(), rtol=0, atol=1e-5)
    many = orthogonal_rows(20000, 4, seed=3)
    torch.testing.assert_close(many.T @ many / 20000, torch.eye(4), rtol=0, atol=0.05)
    torch.testing.assert_close(many.mean(0), torch.zeros(4), rtol=0, atol=0.02)
    assert many.norm(dim=1).std() > 0.5


def test_one_seed_in_the_interval_draws_a_projection_that_it_determines():
    projection = torch.randn(5, 3, dtype=torch.float64)
    assert redrawn(projection, torch.tensor(7), 3).equal(projection)
    new = redrawn(projection, torch.tensor(9), 3)
    assert new.equal(orthogonal_rows(5, 3, 9).double())
    assert redrawn(new, torch.tensor(9), 3).equal(new)
    torch.library.opcheck(redrawn, (projection, torch.tensor(9), 3))


def test_training_redraws_once_in_an_interval_on_average_and_evaluation_never_does():
    mixer, x, redraws = built(redraw_interval=4), tokens(), 0
    for _ in range(200):
        before = mixer.projection_matrix.clone()
        mixer(x, LAYER.grid, None)
        redraws += not mixer.projection_matrix.equal(before)
    assert 35 < redraws < 65
    before = mixer.projection_matrix.clone()
    for still in (mixer.eval(), built(redraw_interval=None)):
        still.projection_matrix.copy_(before)
        for _ in range(20):
            still(x, LAYER.grid, None)
        assert still.projection_matrix.equal(before)


def results(mixer, forward, x):
    """Of three training steps: outputs, gradients and projections."""
    mixer, found = copy.deepcopy(mixer), []
    torch.manual_seed(1)
    for _ in range(3):
        y = forward(mixer, x)
        y.square().sum().backward()
        found += [y.detach(), mixer.projection_matrix.clone(), *(p.grad.clone() for p in mixer.parameters())]
    return found


@pytest.mark.parametrize("interval", [1, 2])
def test_a_pass_that_is_computed_again_has_the_same_projection(interval):
    mixer, x = built(redraw_interval=interval), tokens()

    def plain(mixer, x):
        return mixer(x, LAYER.grid, None)[0]

    def recomputed(mixer, x):
        return checkpoint(plain, mixer, x, use_reentrant=False)

    torch.testing.assert_close(results(mixer, recomputed, x), results(mixer, plain, x))


def test_two_passes_before_the_backward_pass_keep_their_own_projections():
    mixer, x = built(redraw_interval=1), tokens()
    first, projection = mixer(x, LAYER.grid, None)[0], mixer.projection_matrix.clone()
    second, _ = mixer(x, LAYER.grid, None)
    (found,) = torch.autograd.grad(first.sum(), mixer.qkv.weight)
    assert not torch.allclose(first, second)
    mixer.eval().projection_matrix.copy_(projection)
    expected = torch.autograd.grad(mixer(x, LAYER.grid, None)[0].sum(), mixer.qkv.weight)
    torch.testing.assert_close((found,), expected)


def test_a_compiled_layer_redraws_as_well():
    mixer, x = built(redraw_interval=1), tokens()
    before = mixer.projection_matrix.clone()
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    y, _ = compiled(x, LAYER.grid, None)
    y.sum().backward()
    assert not mixer.projection_matrix.equal(before)
    torch.testing.assert_close(mixer.eval()(x, LAYER.grid, None)[0], y)


def test_a_checkpoint_keeps_the_projection():
    mixer, x = built().eval(), tokens()
    other = Performer(LAYER, features=5).double().eval()
    assert not other.projection_matrix.equal(mixer.projection_matrix)
    other.load_state_dict(mixer.state_dict())
    assert other(x, LAYER.grid, None)[0].equal(mixer(x, LAYER.grid, None)[0])


def test_a_layer_built_without_memory_draws_its_projection_when_reset():
    with torch.device("meta"):
        mixer = Performer(LAYER, features=3)
    mixer.to_empty(device="cpu").reset_parameters()
    products = mixer.projection_matrix @ mixer.projection_matrix.T
    torch.testing.assert_close(products, products.diag().diag(), rtol=0, atol=1e-5)
    assert (products.diag() > 0).all()


def test_by_default_features_grow_with_the_width_of_heads_as_published():
    layer = LayerSpec(dim=128, num_heads=2, num_prefix_tokens=0, grid=(1, 2, 2))
    assert Performer(layer).projection_matrix.shape == (266, 64)


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_autocast_rounds_only_the_output(kernel):
    mixer = built(kernel=kernel).float().eval()
    q, k, v = (4 * torch.randn(3, 2, 2, 11, 3)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = mixer.attend(q, k, v)
    assert found.dtype == torch.bfloat16
    assert found.equal(mixer.attend(q.float(), k.float(), v.float()).bfloat16())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(features=-1), "got features=-1, redraw_interval=1000"),
        (dict(redraw_interval=-5), "got features=5, redraw_interval=-5"),
        (dict(kernel="rely"), "unknown kernel 'rely'; did you mean 'relu'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_dropout_of_weights_is_refused():
    with pytest.raises(ValueError, match="set attn_drop=0"):
        built(LayerSpec(dim=6, num_heads=3, num_prefix_tokens=0, grid=(1, 3, 3), attn_drop=0.1))
