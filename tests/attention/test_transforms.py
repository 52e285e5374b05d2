"""torch.func's transforms and forward-mode differentiation: any derivative, with every backend, as the reference's."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from videofib.attention import SelfAttention, Support, op, sparse_attention
from videofib.attention.backends import BACKENDS, MASKINGS
from videofib.attention.kernels import gather
from videofib.models import TimeSformer

SUPPORTS = {
    "one prefix token": Support.fibottention(2, 9),
    "no prefix token": Support.fibottention(3, 7, num_prefix_tokens=0),
    "three prefix tokens": Support.fibottention(2, 6, num_prefix_tokens=3, variant="modified"),
    "empty and far heads": Support(((), (0, 3), (2, 50)), 5, 1),
    "empty head, no prefix": Support(((), (1,)), 4, 0),
    "dense": Support.dense(2, 4),
}
CASES = [
    (name, backend, masking)
    for name, support in SUPPORTS.items()
    for backend in ("cpu", "gather", "dense", "auto")
    for masking in MASKINGS
    if backend != "dense" or support.is_dense
]
every_case = pytest.mark.parametrize(("name", "backend", "masking"), CASES)


def inputs(support, count=3, dtype=torch.float64, batch=1, dim=3):
    """``count`` tensors (B, H, P+N, D)."""
    shape = count, batch, support.num_heads, support.num_prefix_tokens + support.num_tokens, dim
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()


def attention(support, backend, masking):
    return lambda q, k, v: sparse_attention(q, k, v, support, masking=masking, backend=backend)


def same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


@every_case
def test_forward_mode_is_the_finite_difference(name, backend, masking):
    """Also where the same pass is differentiated backwards."""
    q, k, v = (x.clone().requires_grad_() for x in inputs(SUPPORTS[name], dim=2))
    attend = attention(SUPPORTS[name], backend, masking)
    assert torch.autograd.gradcheck(attend, (q, k, v), check_forward_ad=True)


@every_case
def test_tangents_are_those_of_the_reference(name, backend, masking):
    support = SUPPORTS[name]
    q, k, v, *tangents = inputs(support, 6)
    found = jvp(attention(support, backend, masking), (q, k, v), tuple(tangents))
    expected = jvp(attention(support, "reference", masking), (q, k, v), tuple(tangents))
    same(found, expected)
    assert expected[1].abs().max() > 0.1
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(x, t) for x, t in zip((q, k, v), tangents, strict=True)]
        same(forward_ad.unpack_dual(attention(support, backend, masking)(*dual)).tangent, expected[1])


TRANSFORMS = {
    "vjp": lambda f: lambda x: vjp(f, x)[1](torch.ones_like(x))[0],
    "grad": lambda f: grad(lambda x: f(x).square().sum()),
    "jacfwd": jacfwd,
    "jacrev": jacrev,
    "hessian": lambda f: hessian(lambda x: f(x).square().sum()),
    "reverse over reverse": lambda f: jacrev(grad(lambda x: f(x).square().sum())),
    "reverse over forward": lambda f: jacrev(jacfwd(lambda x: f(x).square().sum())),
    "forward over forward": lambda f: jacfwd(jacfwd(lambda x: f(x).square().sum())),
    "third derivative": lambda f: grad(lambda x: grad(lambda y: grad(lambda z: f(z).pow(3).sum())(y).sum())(x).sum()),
    "per-sample gradients": lambda f: lambda x: vmap(grad(lambda y: f(y).square().sum()))(torch.stack([x, 2 * x])),
    "mapped": lambda f: lambda x: vmap(f, in_dims=1, out_dims=2)(torch.stack([x, 2 * x], 1)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize(
    ("name", "backend"), [("one prefix token", "cpu"), ("no prefix token", "gather"), ("dense", "dense")]
)
@pytest.mark.parametrize("which", range(3))
def test_every_transform_is_that_of_the_reference(which, name, backend, masking, transform):
    fixed = list(inputs(SUPPORTS[name], dim=2))
    x = fixed.pop(which)

    def of(backend):
        attend = attention(SUPPORTS[name], backend, masking)
        return TRANSFORMS[transform](lambda y: attend(*fixed[:which], y, *fixed[which:]))(x)

    same(of(backend), of("reference"))


def test_a_transform_within_a_graph_can_be_differentiated_from_outside():
    support = SUPPORTS["one prefix token"]
    q, k, v = inputs(support)

    def outer(backend):
        x = q.clone().requires_grad_()
        inner = grad(lambda y: attention(support, backend, "exclude")(y, k, v).square().sum())(x)
        return torch.autograd.grad(inner.square().sum(), x)[0]

    same(outer("cpu"), outer("reference"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["one prefix token", "dense"])
def test_half_precision_is_computed_in_single(name, dtype):
    exact = inputs(SUPPORTS[name], 6)
    rounded = [x.to(dtype) for x in exact]
    attend = attention(SUPPORTS[name], "auto", "exclude")
    found = jvp(attend, tuple(rounded[:3]), tuple(rounded[3:]))
    expected = jvp(attend, tuple(x.double() for x in rounded[:3]), tuple(x.double() for x in rounded[3:]))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, atol=2 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)


def test_autocast_casts_as_outside_of_transforms():
    support = SUPPORTS["one prefix token"]
    q, k, v, t = inputs(support, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, tangent = jvp(lambda x: sparse_attention(x, k, v, support), (q,), (t,))
    assert out.dtype == tangent.dtype == torch.bfloat16


def test_dropout_drops_and_keeps_the_mean_under_transforms():
    support = Support.fibottention(2, 20)
    q, k, v = inputs(support)
    torch.manual_seed(0)
    draw = vmap(lambda x: sparse_attention(x, k, v, support, dropout_p=0.3, backend="gather"), randomness="different")
    draws = draw(q.expand(400, *q.shape))
    assert not torch.allclose(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), sparse_attention(q, k, v, support), atol=0.25, rtol=0)


def test_no_square_tensor_is_held():
    """At N = 20,001 an N x N mask or logits would take 1.6 GB a head; the saved tensors stay O(N · offsets)."""
    support = Support.fibottention(2, 20_001)
    q, k, v = (x.requires_grad_() for x in inputs(support, dtype=torch.float32, dim=8))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        gather.attend_by_autograd(q, k, v, support, "exclude", 0.3, 0.0)
    longest = max(len(row) for row in support.offsets)
    assert max(saved) <= support.num_tokens * max(2 * longest + 1, support.num_heads * 8) + 8 * 2


def test_the_operator_itself_loses_no_tangent_silently():
    """As an exported program calls it."""
    support = SUPPORTS["one prefix token"]
    q, k, v, t = inputs(support, 4)

    def call(x):
        return op.forward(x, k, v, support.code, "exclude", 0.3)[0]

    with pytest.raises(NotImplementedError, match="no forward-mode derivative; call sparse_attention"):
        jvp(call, (q,), (t,))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="call sparse_attention"):
        call(forward_ad.make_dual(q, t))
    x = q.clone().requires_grad_()
    out = call(x)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="call sparse_attention"):
        torch.autograd.grad(out, x, forward_ad.make_dual(torch.ones_like(out), t))


def test_every_backend_has_rules_for_transforms():
    assert all((backend.by_autograd is None) == (backend.derivatives is None) for backend in BACKENDS.values())
    assert BACKENDS["triton"].by_autograd is BACKENDS["cpu"].by_autograd


@pytest.mark.slow
@pytest.mark.parametrize("transform", [jvp, vmap, grad], ids=lambda f: f.__name__)
def test_a_compiled_transform_is_the_same(transform):
    support = SUPPORTS["one prefix token"]
    q, k, v, t = inputs(support, 4)

    def attend(x):
        return sparse_attention(x, k, v, support)

    calls = {
        "jvp": lambda x: jvp(attend, (x,), (t,))[1],
        "vmap": lambda x: vmap(attend)(torch.stack([x, t])),
        "grad": grad(lambda x: attend(x).square().sum()),
    }
    call = calls[transform.__name__]
    torch._dynamo.reset()
    same(torch.compile(call, fullgraph=True, backend="aot_eager")(q), call(q))


# layers and models

KINDS = {
    "divided": dict(attention_type="divided_space_time"),
    "joint": dict(attention_type="joint_space_time"),
    "space only": dict(attention_type="space_only"),
    "no class token": dict(attention_type="joint_space_time", class_token=False, pooling="mean", position="sinusoid"),
    "zero logit": dict(attention_type="joint_space_time", mixer_options={"fibottention": {"masking": "zero_logit"}}),
}


def model(mixer, **options):
    torch.manual_seed(0)
    mixers = dict.fromkeys(("joint_attention", "space_attention", "time_attention"), mixer)
    sizes = dict(img_size=16, patch_size=8, num_frames=4, embed_dim=12, depth=2, num_heads=3, num_classes=3)
    built = TimeSformer(drop_path_rate=0.0, **sizes, **mixers, **options).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.3)
    return built


@pytest.fixture
def clips():
    return torch.randn(3, 3, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mixer", ["dense", "fibottention"])
@pytest.mark.parametrize("kind", KINDS)
def test_per_sample_gradients_of_a_model_are_those_of_each_clip(kind, mixer, clips):
    built = model(mixer, **KINDS[kind])
    weights = dict(built.named_parameters())

    def loss(weights, clip):
        return functional_call(built, weights, (clip[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))({name: p.detach() for name, p in weights.items()}, clips)
    for i, clip in enumerate(clips):
        one = torch.autograd.grad(built(clip[None]).square().sum(), list(weights.values()))
        for name, expected in zip(weights, one, strict=True):
            torch.testing.assert_close(found[name][i], expected, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("mixer", ["dense", "fibottention"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tangent_of_a_model_is_its_finite_difference(kind, mixer, clips):
    built, change = model(mixer, **KINDS[kind]).eval(), torch.randn_like(clips)
    step = 1e-6
    expected = (built(clips + step * change) - built(clips - step * change)) / (2 * step)
    tangent = jvp(built, (clips,), (change,))[1]
    torch.testing.assert_close(tangent, expected.detach(), atol=1e-6, rtol=1e-5)
    assert tangent.abs().max() > 1e-2


def test_a_hessian_product_of_a_layer_is_its_finite_difference():
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, Support.fibottention(3, 9)).double()
    x, change = torch.randn(2, 2, 10, 12, dtype=torch.float64).unbind()
    slope = grad(lambda y: layer(y).square().sum())
    step = 1e-6
    expected = (slope(x + step * change) - slope(x - step * change)) / (2 * step)
    torch.testing.assert_close(jvp(slope, (x,), (change,))[1], expected, atol=1e-7, rtol=1e-5)
