"""DAPE V2 against loops over queries, keys and the cells of its kernels."""

import dataclasses
import itertools
import math

import pytest
import torch
from einops import rearrange
from torch.utils.flop_counter import FlopCounterMode

from videofib.mixers import LayerSpec
from videofib.mixers.dape import DapeAttention

LAYER = LayerSpec(dim=6, num_heads=2, num_prefix_tokens=0, grid=(2, 2, 3))


def built(prefix=0, grid=LAYER.grid, order=LAYER.order, **options):
    torch.manual_seed(0)
    layer = dataclasses.replace(LAYER, num_prefix_tokens=prefix, grid=grid, order=order)
    module = DapeAttention(layer, **{"width": 3, **options}).double()
    if not options.get("zero_init"):
        for parameter in module.dape.mlp2.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    if hasattr(module.dape, "L_multiplier"):  # so that no distance equals L, where the gradient would be ambiguous
        torch.nn.init.constant_(module.dape.L_multiplier, 1.1)
        torch.nn.init.constant_(module.dape.c, -0.2)
    return module


def positions(grid, order):
    """Of every token, (t, h, w)."""
    axes = order.split()
    lengths = dict(zip("thw", grid, strict=True))
    places = itertools.product(*(range(lengths[axis]) for axis in axes))
    return [tuple(dict(zip(axes, place, strict=True))[axis] for axis in "thw") for place in places]


def bias_of(dape, i, places, causal):
    """(H, N): of query i and every key, the axes of the grid one after the other."""
    total = 0
    for axis in range(len(places[0])):
        if len({place[axis] for place in places}) == 1:
            continue
        distance = torch.tensor(
            [0 if causal and j > i else abs(places[i][axis] - place[axis]) for j, place in enumerate(places)],
            dtype=torch.double,
        )
        if hasattr(dape, "slopes"):
            total = total - dape.slopes[:, None] * distance
        elif hasattr(dape, "bias_p"):
            total = total - dape.bias_p[:, 0] * torch.log(1 + dape.bias_a[:, 0] * distance)
        else:
            longest = max(distance.max(), abs(dape.L_multiplier * dape.init_L))
            share = (1 + dape.c.abs() * distance).log() / ((1 + dape.c.abs() * longest).log() + 1e-6)
            total = total + dape.mlp(share[:, None]).T
    return total


def convolved(convolution, cells):
    """A kernel's sums: {position: (C,)} -> {position: (M,)}; positions that are missing count as zeros."""
    size = convolution.kernel_size
    result = {}
    for place in cells:
        value = convolution.bias
        for tap in itertools.product(*map(range, size)):
            neighbour = tuple(p + k - n // 2 for p, k, n in zip(place, tap, size, strict=True))
            if neighbour in cells:
                value = value + convolution.weight[(..., *tap)] @ cells[neighbour]
        result[place] = value
    return result


def changed(module, row, i, places):
    """The scores of query i with all patches, (H, N) -> (H, N)."""
    dape = module.dape
    channels = row
    if dape.channels_per_head == 2:
        bias = bias_of(dape, i, places, module.causal)
        channels, row = torch.cat([row, bias]), row + bias
    if module.causal:
        channels = torch.cat([channels[:, : i + 1], torch.zeros_like(channels[:, i + 1 :])], dim=1)
    cells = places if len(dape.mlp2[0].kernel_size) == 3 else [(0, place[0]) for place in places]
    hidden = convolved(dape.mlp2[0], dict(zip(cells, channels.T, strict=True)))
    hidden = {place: torch.where(x > 0, x, 0.01 * x) for place, x in hidden.items()}
    row = row + torch.stack([convolved(dape.mlp2[2], hidden)[place] for place in cells], dim=1)
    if module.causal:
        row = torch.cat([row[:, : i + 1], torch.full_like(row[:, i + 1 :], -math.inf)], dim=1)
    return row


def by_loops(module, x, grid):
    """Clip by clip and row by row."""
    heads, prefix = module.num_heads, module.num_prefix_tokens
    places = positions(grid, module.dape.order)
    if len(module.dape.mlp2[0].kernel_size) == 2:
        places = [(j,) for j in range(len(places))]
    rows = []
    for q, k, v in zip(*rearrange(module.qkv(x), "b n (three h d) -> three b h n d", three=3, h=heads), strict=True):
        for i in range(x.shape[1]):
            row = torch.einsum("hd,hnd->hn", q[:, i], k) / q.shape[-1] ** 0.5
            if i >= prefix:
                row = torch.cat([row[:, :prefix], changed(module, row[:, prefix:], i - prefix, places)], dim=1)
            rows.append(torch.einsum("hn,hnd->hd", row.softmax(-1), v).flatten())
    return module.proj(torch.stack(rows).view_as(x))


@pytest.mark.parametrize("most_numbers", [1 << 27, 400, 1], ids=["one chunk", "chunks of some", "chunks of one"])
@pytest.mark.parametrize(
    "options",
    [
        dict(prefix=2),
        dict(kernel=5, position_bias="alibi"),
        dict(kernel=1, position_bias="fire", prefix=1),
        dict(position_bias="kerple", causal=True),
        dict(position_bias="fire", causal=True),
        dict(grid_kernel=(3, 1, 3), prefix=1),
        dict(grid_kernel=(3, 3, 3), position_bias="kerple", order="t h w"),
        dict(grid_kernel=(1, 3, 5), position_bias="alibi", grid=(1, 3, 4)),
        dict(grid_kernel=(3, 3, 3), position_bias="fire", grid=(5, 1, 1), prefix=1),
        dict(grid_kernel=(1, 3, 3), position_bias="fire", causal=True),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_it_is_the_convolution_of_each_row(options, most_numbers):
    module = built(**options)
    module.most_numbers = most_numbers
    grid, prefix = options.get("grid", LAYER.grid), options.get("prefix", 0)
    x = torch.randn(1, prefix + math.prod(grid), 6, dtype=torch.double, requires_grad=True)
    y, state = module(x, grid, "state")
    expected = by_loops(module, x, grid)
    assert state == "state"
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    parameters = [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), parameters), torch.autograd.grad((expected * weight).sum(), parameters)
    )


@pytest.mark.parametrize("position_bias", ["none", "alibi", "kerple", "fire"])
def test_the_order_of_tokens_does_not_matter_to_kernels_over_the_grid(position_bias):
    options = dict(prefix=1, grid_kernel=(3, 3, 3), position_bias=position_bias)
    module, other = built(**options), built(order="t h w", **options)
    x = torch.randn(2, 13, 6, dtype=torch.double)
    y, z = module(x, (2, 2, 3), None)[0], other(reordered(x, "h w t", "t h w"), (2, 2, 3), None)[0]
    torch.testing.assert_close(z, reordered(y, "h w t", "t h w"))


def reordered(x, before, after):
    patches = rearrange(x[:, 1:], f"b ({before}) c -> b ({after}) c", t=2, h=2, w=3)
    return torch.cat([x[:, :1], patches], dim=1)


@pytest.mark.parametrize("position_bias", ["none", "fire"])
def test_a_line_of_the_grid_is_a_line_of_keys(position_bias):
    over_grid = built(grid=(5, 1, 1), grid_kernel=(3, 7, 7), position_bias=position_bias)
    over_keys = built(grid=(5, 1, 1), position_bias=position_bias)
    shapes = {name: tensor.shape for name, tensor in over_keys.state_dict().items()}
    over_keys.load_state_dict({name: x.reshape(shapes[name]) for name, x in over_grid.state_dict().items()})
    x = torch.randn(2, 5, 6, dtype=torch.double)
    torch.testing.assert_close(over_grid(x, (5, 1, 1), None)[0], over_keys(x, (5, 1, 1), None)[0])


@pytest.mark.parametrize("options", [{}, dict(position_bias="kerple"), dict(grid_kernel=(3, 3, 3))], ids=str)
def test_nothing_comes_from_later_tokens_where_causal(options):
    module, x = built(causal=True, **options), torch.randn(1, 12, 6, dtype=torch.double)
    changed = torch.cat([x[:, :7], torch.randn_like(x[:, 7:])], dim=1)
    before, after = module(x, LAYER.grid, None)[0], module(changed, LAYER.grid, None)[0]
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).all()


def test_other_clips_than_those_it_was_built_for():
    module = built(prefix=1, grid_kernel=(3, 1, 3), position_bias="fire")
    x = torch.randn(1, 1 + 3 * 1 * 4, 6, dtype=torch.double)
    torch.testing.assert_close(module(x, (3, 1, 4), None)[0], by_loops(module, x, (3, 1, 4)))


def test_scores_of_prefix_tokens_stay():
    module, scores = built(prefix=2, position_bias="alibi"), torch.randn(1, 2, 14, 14, dtype=torch.double)
    logits = module.logits(scores, 0, LAYER.grid)
    assert torch.equal(logits[..., :2, :], scores[..., :2, :])
    assert torch.equal(logits[..., :2], scores[..., :2])
    assert not torch.isclose(logits, scores)[..., 2:, 2:].any()


@pytest.mark.parametrize("grid_kernel", [None, (3, 3, 3)])
def test_zero_init_starts_as_dense_attention(grid_kernel):
    module, x = built(prefix=1, zero_init=True, grid_kernel=grid_kernel), torch.randn(1, 13, 6, dtype=torch.double)
    q, k, v = rearrange(module.qkv(x), "b n (three h d) -> three b h n d", three=3, h=2)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(module(x, LAYER.grid, None)[0], module.proj(rearrange(out, "b h n d -> b n (h d)")))
    assert module.dape.mlp2[0].weight.abs().min() > 0


def test_initial_biases_are_the_published_ones():
    layer = dataclasses.replace(LAYER, dim=12, num_heads=6, grid=(3, 4, 5))
    slopes = DapeAttention(layer, position_bias="alibi").dape.slopes
    assert slopes.tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    fire = DapeAttention(layer, position_bias="fire").dape
    assert (fire.c.item(), fire.init_L.item(), fire.L_multiplier.item()) == (pytest.approx(0.1), 30, 1)
    assert DapeAttention(layer, position_bias="fire", grid_kernel=(1, 3, 3)).dape.init_L == 2


@pytest.mark.parametrize("position_bias", ["alibi", "fire"])
def test_buffers_are_made_again_after_the_meta_device(position_bias):
    with torch.device("meta"):
        module = DapeAttention(LAYER, position_bias=position_bias)
    module.to_empty(device="cpu").reset_parameters()
    for name, buffer in DapeAttention(LAYER, position_bias=position_bias).named_buffers():
        assert torch.equal(module.get_buffer(name), buffer)


def test_kerple_parameters_below_their_bound_still_learn():
    module = built(position_bias="kerple")
    torch.nn.init.constant_(module.dape.bias_p, -1)
    x = torch.randn(1, 12, 6, dtype=torch.double)
    y = module(x, LAYER.grid, None)[0]
    y.square().sum().backward()
    assert module.dape.bias_p.grad.abs().min() > 0
    torch.nn.init.constant_(module.dape.bias_p, 0.01)
    torch.testing.assert_close(module(x, LAYER.grid, None)[0], y)


def test_parameters_of_positions_do_not_decay():
    for position_bias, names in [
        ("none", set()),
        ("alibi", set()),
        ("kerple", {"dape.bias_p", "dape.bias_a"}),
        ("fire", {"dape.c", "dape.L_multiplier"}),
    ]:
        module = built(position_bias=position_bias)
        assert module.no_weight_decay() == names <= dict(module.named_parameters()).keys()


@pytest.mark.parametrize("position_bias", ["none", "alibi", "kerple", "fire"])
@pytest.mark.parametrize("grid_kernel", [None, (3, 3, 3)])
def test_scores_have_32_bits_under_autocast_and_with_weights_of_16(position_bias, grid_kernel):
    module = built(prefix=1, position_bias=position_bias, grid_kernel=grid_kernel).float()
    x = torch.randn(1, 13, 6)
    exact = module(x, LAYER.grid, None)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x, LAYER.grid, None)[0]
    z = module.bfloat16()(x.bfloat16(), LAYER.grid, None)[0]
    for found in (y, z):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.05)
    assert module.logits(torch.randn(1, 2, 13, 13), 0, LAYER.grid).dtype == torch.float32


@pytest.mark.parametrize("position_bias", ["none", "alibi", "kerple", "fire"])
@pytest.mark.parametrize(("grid", "grid_kernel"), [((2, 3, 4), None), ((2, 3, 4), (3, 3, 5)), ((1, 3, 4), (3, 3, 3))])
def test_multiply_adds_are_those_that_torch_counts(position_bias, grid, grid_kernel):
    module = built(grid=grid, prefix=1, position_bias=position_bias, grid_kernel=grid_kernel)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 1 + math.prod(grid), 6, dtype=torch.double), grid, None)
    assert module.multiply_adds(grid) == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(width=0), "width=0; set"),
        (dict(kernel=4), "kernel=4, grid_kernel=None; set odd"),
        (dict(grid_kernel=(3, 2, 3)), r"grid_kernel=\(3, 2, 3\); set odd"),
        (dict(grid_kernel=(3, 3)), r"grid_kernel=\(3, 3\); set three"),
        (dict(position_bias="kerpel"), "did you mean 'kerple'"),
        (dict(causal=True, prefix=1), "causal=True, num_prefix_tokens=1; set"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim=6, num_heads=4"):
        DapeAttention(dataclasses.replace(LAYER, num_heads=4))
