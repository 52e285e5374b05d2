"""Diffusion equals the powers of each head's attention matrix."""

import dataclasses

import pytest
import torch
import torch.distributed as dist

from videofib.attention import ContextGroup, Support
from videofib.distributed.launch import launch
from videofib.mixers import LayerSpec, MixerChoice
from videofib.mixers.dense_attention import DenseAttention
from videofib.mixers.diffuser import Diffuser, diffused_attention
from videofib.mixers.fibottention import Fibottention
from videofib.models import TimeSformer

LAYER = LayerSpec(dim=12, num_heads=3, num_prefix_tokens=1, grid=(3, 1, 7), qk_norm=1e-6)
TOTAL = 1 + 21


def randomized(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def matrices(mixer, x):
    """Each head's matrix of weights (B, H, P+N, P+N), and the values (B, H, P+N, d)."""
    q, k, v = mixer.qkv(x).unflatten(-1, (3, mixer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = mixer.q_norm(q), mixer.k_norm(k)
    mask = mixer.support_for(x.shape[1] - mixer.num_prefix_tokens).to_mask()
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1), v


def closed_form(matrix, hops, alpha):
    """(1-α)^T A^T + α Σ_{t<T} (1-α)^t A^t."""
    power = torch.linalg.matrix_power
    total = (1 - alpha) ** hops * power(matrix, hops)
    return total + sum(alpha * (1 - alpha) ** t * power(matrix, t) for t in range(hops))


def reference(mixer, x):
    matrix, v = matrices(mixer, x)
    return mixer.proj((closed_form(matrix, mixer.hops, mixer.alpha) @ v).transpose(1, 2).flatten(2))


def with_gradients(function, mixer, x):
    y = function(x)
    probe = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * probe).sum(), [x, *mixer.parameters()])]


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(hops=1, alpha=0.3),
        dict(hops=3, alpha=0.0, w_min=1, w_max=4, variant="modified", head_order="per_layer"),
        dict(support="window", window=3, alpha=0.5),
        dict(support="window", window=0),
        dict(support="window", window=99, hops=2),
        dict(support="dense"),
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("backend", ["auto", "gather", "reference"])
def test_every_backend_gives_the_closed_form(options, prefix, backend):
    layer = dataclasses.replace(LAYER, num_prefix_tokens=prefix, backend=backend, index=1)
    mixer = randomized(Diffuser(layer, **options))
    x = torch.randn(2, prefix + 21, 12, dtype=torch.float64, requires_grad=True)
    found = with_gradients(lambda x: mixer(x, LAYER.grid)[0], mixer, x)
    expected = with_gradients(lambda x: reference(mixer, x), mixer, x)
    # biases of keys shift all logits of a query, so that their gradients are rounding errors
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_the_supports_are_those_that_are_named():
    def support(**options):
        return Diffuser(dataclasses.replace(LAYER, num_heads=4, index=2), **options).support_for(21)

    options = dict(w_min=2, w_max=13, variant="modified", head_order="per_layer")
    assert support(**options) == Support.fibottention(4, 21, layer_index=2, **options)
    for option in options:  # each matters
        rest = {name: value for name, value in options.items() if name != option}
        assert support(**rest) == Support.fibottention(4, 21, layer_index=2, **rest) != support(**options)
    assert support(support="dense") == Support.dense(4, 21)
    position = torch.arange(21)
    near = (position[:, None] - position).abs() <= 4
    assert torch.equal(support(support="window", window=4).to_mask()[:, 1:, 1:], near.expand(4, -1, -1))


def test_it_shows_its_hops():
    assert "hops=3, alpha=0.2, hop_drop=0.1" in repr(Diffuser(LAYER, hops=3, alpha=0.2, hop_drop=0.1))


def test_one_hop_that_restores_nothing_is_attention():
    mixer, plain = Diffuser(LAYER, hops=1, alpha=0.0), Fibottention(LAYER)
    plain.load_state_dict(mixer.state_dict())
    x = torch.randn(2, TOTAL, 12)
    torch.testing.assert_close(mixer(x, LAYER.grid), plain(x, LAYER.grid))


def test_no_hop_returns_the_values():
    v = torch.randn(1, 2, 5, 3)
    assert diffused_attention(None, v, v, v, hops=0, alpha=0.1) is v


def test_equal_values_stay_as_they_are():
    q, v = torch.randn(1, 1, 6, 4), torch.ones(1, 1, 6, 4)
    y = diffused_attention(torch.nn.functional.scaled_dot_product_attention, q, q, v, hops=7, alpha=0.2)
    torch.testing.assert_close(y, v)  # rows of the diffused matrix sum to 1


def test_hops_reach_further_and_a_class_token_joins_all():
    def seen(hops, prefix):
        layer = dataclasses.replace(LAYER, num_prefix_tokens=prefix)
        mixer = randomized(Diffuser(layer, support="window", window=2, hops=hops))
        x = torch.randn(1, prefix + 21, 12, dtype=torch.float64)
        matrix = closed_form(matrices(mixer, x)[0], hops, mixer.alpha)[0, 0]
        torch.testing.assert_close(matrix.sum(-1), torch.ones(prefix + 21, dtype=torch.float64))
        return matrix[prefix:, prefix:] > 0

    position = torch.arange(21)
    distance = (position[:, None] - position).abs()
    assert torch.equal(seen(3, prefix=0), distance <= 6)
    assert seen(2, prefix=1).all()


def test_rows_of_the_diffused_matrix():
    mixer = randomized(Diffuser(LAYER, alpha=0.3, hops=4))
    x, weights = torch.randn(2, TOTAL, 12).double(), torch.rand(2, TOTAL).double()
    expected = torch.einsum("bq,bhqk->bhk", weights, closed_form(matrices(mixer, x)[0], 4, 0.3))
    torch.testing.assert_close(mixer.weighted_rows(x, weights), expected)


def test_numbers_are_dropped_after_every_hop():
    matrix, v = torch.rand(2, 3, 5, 5).softmax(-1), torch.randn(2, 3, 5, 4)
    torch.manual_seed(1)
    h = v
    for mask in [torch.nn.functional.dropout(torch.ones_like(v), 0.5) for _ in range(4)]:
        h = mask * (0.9 * matrix @ h + 0.1 * v)
    torch.manual_seed(1)
    found = diffused_attention(lambda q, k, v: matrix @ v, v, v, v, hops=4, alpha=0.1, hop_drop=0.5)
    torch.testing.assert_close(found, h)


@pytest.mark.parametrize(("drop", "options"), [(0.5, {}), (0.0, {"hop_drop": 0.5})])
def test_dropout_is_for_training(drop, options):
    mixer = randomized(Diffuser(dataclasses.replace(LAYER, attn_drop=drop, backend="gather"), **options))
    x = torch.randn(2, TOTAL, 12).double()
    torch.testing.assert_close(mixer.eval()(x, LAYER.grid)[0], reference(mixer, x))
    assert not torch.allclose(mixer.train()(x, LAYER.grid)[0], reference(mixer, x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(support="windows"), "did you mean 'window'"),
        (dict(support="window", window=-1), "window=-1"),
        (dict(hops=0), "hops=0"),
        (dict(alpha=1.0), "alpha=1.0"),
        (dict(hop_drop=-0.1), "hop_drop=-0.1"),
        (dict(variant="wythof"), "wythof"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Diffuser(LAYER, **options)


def test_zero_logits_would_join_all_tokens_and_are_refused():
    with pytest.raises(ValueError, match="mixer 'diffuser' has no option 'masking'"):
        MixerChoice({"joint": "diffuser"}, {"diffuser": {"masking": "zero_logit"}})


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_models_use_every_parameter(attention_type):
    torch.manual_seed(0)
    kinds = ("space", "time") if attention_type == "divided_space_time" else (attention_type.split("_")[0],)
    model = TimeSformer(
        **dict(img_size=(16, 24), patch_size=8, num_classes=5, num_frames=3, embed_dim=8, depth=2, num_heads=2),
        **{"attention_type": attention_type} | {f"{kind}_attention": "diffuser" for kind in kinds},
        gradient_checkpointing=True,
    )
    torch.nn.init.normal_(model.head.weight)
    model(torch.randn(2, 3, 3, 16, 24)).square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def share_tokens():
    """In every process: its slice of the output and of the gradient is that of all tokens, after one exchange."""
    context = ContextGroup()
    for mixer in (Diffuser(LAYER), Diffuser(LAYER, support="dense", hops=2), DenseAttention(LAYER)):
        randomized(mixer)
        x = torch.randn(2, TOTAL, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        local = context.slice(TOTAL).positions
        expected = x.clone().requires_grad_()
        y, _ = mixer(expected, LAYER.grid)
        y.square().sum().backward()
        mixer.share_tokens(context)
        found = x[:, local.start : local.stop].clone().requires_grad_()
        exchanges = count_exchanges(lambda mixer=mixer, found=found: mixer(found, LAYER.grid)[0])
        torch.testing.assert_close(exchanges.result, y[:, local.start : local.stop])
        exchanges.result.square().sum().backward()
        torch.testing.assert_close(found.grad, expected.grad[:, local.start : local.stop])
        assert exchanges.count == 2  # tokens for heads, and back


@dataclasses.dataclass
class Exchanges:
    result: torch.Tensor
    count: int


def count_exchanges(function):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = function()
    return Exchanges(result, sum(e.count for e in profile.key_averages() if e.key == "c10d::alltoall_base_"))


def test_two_processes_compute_what_one_does():
    launch(share_tokens, (), processes=2)
    assert not dist.is_initialized()
