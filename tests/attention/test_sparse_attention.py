"""Every backend against the reference, forward and gradient, on awkward sizes."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from videofib.attention import Support, op, sparse_attention
from videofib.attention.backends import BACKENDS, INSTALLED, MASKINGS, choose
from videofib.attention.kernels import gather

SUPPORTS = {
    "196 tokens": Support.fibottention(12, 196),
    "modified": Support.fibottention(4, 61, variant="modified"),
    "one token": Support.fibottention(3, 1),
    "two tokens, no prefix": Support.fibottention(2, 2, num_prefix_tokens=0),
    "short, no prefix": Support.fibottention(4, 7, num_prefix_tokens=0),
    "five prefix tokens": Support.fibottention(3, 33, num_prefix_tokens=5),
    "empty and far heads": Support(((), (0, 3), (2, 50), (8,)), 9, 1),
    "empty head, no prefix": Support(((), (1,)), 6, 0),
    "dense": Support.dense(2, 10),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def qkv(support, dtype, dim=8, batch=2):
    """Three (B, H, P+N, D) leaves, as non-contiguous as a packed projection gives them."""
    total = support.num_prefix_tokens + support.num_tokens
    packed = torch.randn(
        batch, total, 3, support.num_heads, dim, dtype=dtype, generator=torch.Generator().manual_seed(0)
    )
    return [x.requires_grad_() for x in packed.permute(2, 0, 3, 1, 4)]


def forward_and_gradients(inputs, support, **options):
    out = sparse_attention(*inputs, support, **options)
    probe = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad((out * probe).sum(), inputs)]


@pytest.mark.parametrize("backend", ["gather", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize("name", SUPPORTS)
def test_fast_backends_are_the_reference(name, masking, dtype, backend):
    support = SUPPORTS[name]
    inputs = qkv(support, dtype)
    found = forward_and_gradients(inputs, support, masking=masking, backend=backend)
    expected = forward_and_gradients(inputs, support, masking=masking, backend="reference")
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_reference_is_torch_attention_with_the_mask():
    support = SUPPORTS["196 tokens"]
    q, k, v = qkv(support, torch.float64)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=support.to_mask())
    torch.testing.assert_close(sparse_attention(q, k, v, support, backend="reference"), expected)


def test_zero_logit_is_the_released_codes_product_with_the_mask():
    support = SUPPORTS["modified"]
    q, k, v = qkv(support, torch.float64)
    expected = torch.softmax((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 * support.to_mask(), -1) @ v
    torch.testing.assert_close(sparse_attention(q, k, v, support, masking="zero_logit"), expected)


@pytest.mark.parametrize("backend", ["gather", "cpu"])
@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
def test_extreme_logits_stay_finite(masking, backend):
    support = Support.fibottention(3, 40)
    inputs = [x.detach().mul(100).requires_grad_() for x in qkv(support, torch.float32)]  # logits to about 1e5
    found = forward_and_gradients(inputs, support, masking=masking, backend=backend)
    expected = forward_and_gradients(inputs, support, masking=masking, backend="reference")
    for a, b in zip(found, expected, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


def test_gather_holds_no_square_tensor():
    """At N = 20,001 an N x N mask or logits would take 1.6 GB a head; the saved tensors stay O(N · offsets)."""
    support = Support.fibottention(2, 20_001)
    inputs = qkv(support, torch.float32, batch=1)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        sparse_attention(*inputs, support, backend="gather").sum().backward()
    longest = max(len(row) for row in support.offsets)
    assert max(saved) <= support.num_tokens * max(2 * longest + 1, support.num_heads * 8) + 8 * 2


@pytest.mark.parametrize("backend", ["gather", "cpu"])
def test_half_precision_is_computed_in_single(backend):
    support = SUPPORTS["modified"]
    exact = qkv(support, torch.float64)
    half = [x.detach().to(torch.bfloat16) for x in exact]
    expected = sparse_attention(*[x.double() for x in half], support, backend="reference")
    found = sparse_attention(*half, support, backend=backend)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=2**-8, rtol=2**-8)  # the rounding of the output alone


@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_dropout_drops_and_keeps_the_mean(backend):
    support = Support.fibottention(2, 50)
    q, k, v = (x.detach() for x in qkv(support, torch.float64, batch=1))
    kept = sparse_attention(q, k, v, support, backend=backend)
    torch.manual_seed(0)
    draws = torch.stack([sparse_attention(q, k, v, support, backend=backend, dropout_p=0.3) for _ in range(600)])
    assert not torch.allclose(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), kept, atol=0.25, rtol=0)


def test_gather_gradient_with_dropout_is_the_derivative():
    support = Support.fibottention(2, 9)
    inputs = [x[:1] for x in qkv(support, torch.float64, dim=3)]

    def seeded(q, k, v):
        torch.manual_seed(7)
        return gather.attend(q, k, v, support, "exclude", 0.5, 0.4)

    assert torch.autograd.gradcheck(seeded, [x.detach().clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("backend", ["reference", "gather", "dense", "cpu"])
def test_derivatives_are_as_the_table_says(backend):
    """Also where autograd is asked for the gradient of one tensor, and prefix tokens give a part of it."""
    support = Support.dense(2, 9)
    q, k, v = qkv(support, torch.float32)
    out = sparse_attention(q, k, v, support, backend=backend)
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with nullcontext() if BACKENDS[backend].derivatives is None else pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), k)


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_as_the_table_says(backend, masking, monkeypatch):
    for package in ("numba", "triton"):
        monkeypatch.setitem(INSTALLED, package, True)
    support, q = Support.dense(2, 9), torch.empty(1, 2, 10, 8, device="meta")
    offered = masking in BACKENDS[backend].dropout
    with nullcontext() if offered else pytest.raises(ValueError, match=rf"{backend}.*dropout_p=0\.1"):
        assert choose(backend, q, support, masking, 0.1) is BACKENDS[backend]


def test_dropout_under_zero_logit_is_rejected_not_ignored():
    support = Support.fibottention(2, 9)
    with pytest.raises(ValueError, match=r"dropout_p=0\.1"):
        sparse_attention(*qkv(support, torch.float32), support, masking="zero_logit", dropout_p=0.1, backend="gather")


@pytest.mark.parametrize("backend", ["reference", "gather", "cpu"])
def test_autocast_gives_its_dtype_and_rounds_nothing_but_inputs_and_output(backend):
    support = Support.fibottention(2, 30)
    inputs = qkv(support, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = sparse_attention(*inputs, support, backend=backend)
    assert found.dtype == torch.bfloat16
    exact = sparse_attention(*(x.bfloat16().float() for x in inputs), support, backend="reference")
    tolerance = 0.05 if backend == "reference" else 0.004  # half a step of bfloat16, relative
    torch.testing.assert_close(found.float(), exact, atol=1e-5 if backend != "reference" else 0.05, rtol=tolerance)


def test_auto_takes_the_fused_kernel_for_dense_supports_only():
    support = Support.dense(2, 30)
    inputs = qkv(support, torch.float64)
    torch.testing.assert_close(
        sparse_attention(*inputs, support), sparse_attention(*inputs, support, backend="reference"), atol=1e-10, rtol=0
    )
    sparse = Support.fibottention(2, 30)
    with pytest.raises(ValueError, match="dense supports only"):
        sparse_attention(*qkv(sparse, torch.float32), sparse, backend="dense")


def _cases(*names):
    """Backends with supports that they serve."""
    return [(b, n) for b in BACKENDS for n in names if SUPPORTS[n].is_dense or not BACKENDS[b].dense_only]


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize(
    ("backend", "name"), _cases("modified", "empty head, no prefix", "five prefix tokens", "dense")
)
def test_every_backend_gives_shapes_on_the_meta_device(backend, name, masking, monkeypatch):
    """Forward and backward, in 16 bits, under autocast of another device, and within a transform."""
    monkeypatch.setitem(INSTALLED, "triton", True)
    support = SUPPORTS[name]
    expected = forward_and_gradients(qkv(support, torch.float32), support, masking=masking, backend="reference")
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [torch.empty_like(x, dtype=dtype, device="meta").requires_grad_() for x in qkv(support, dtype)]
        with torch.autocast("cpu", torch.bfloat16):
            out = sparse_attention(*inputs, support, masking=masking, backend=backend)
        for a, b in zip([out, *torch.autograd.grad(out.sum(), inputs)], expected, strict=True):
            assert (a.shape, a.dtype, a.device.type) == (b.shape, dtype, "meta")
    attend = torch.func.grad(lambda q, k, v: sparse_attention(q, k, v, support, masking=masking, backend=backend).sum())
    assert attend(*(x.detach() for x in inputs)).shape == inputs[0].shape


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("backend", "name"),
    [case for case in _cases("one token", "modified", "empty head, no prefix", "dense") if case[0] != "triton"],
)
def test_an_empty_batch_gives_empty_results(backend, name, dtype, masking):
    support = SUPPORTS[name]
    inputs = qkv(support, dtype, batch=0)
    found = forward_and_gradients(inputs, support, masking=masking, backend=backend)
    for x in found:
        assert (x.shape, x.dtype) == (inputs[0].shape, dtype)
    transformed = torch.func.vjp(lambda q: sparse_attention(q, *inputs[1:], support, backend=backend), inputs[0])
    assert transformed[0].shape == transformed[1](found[0])[0].shape == inputs[0].shape


def test_an_empty_batch_launches_no_kernel_on_a_gpu(monkeypatch):
    """The operator's own rule, which the CPU shares: a CUDA grid of no blocks is an error."""
    monkeypatch.setattr(op, "_kernel", lambda device: pytest.fail("a kernel was asked for"))
    support = SUPPORTS["modified"]
    forward_and_gradients(qkv(support, torch.float32, batch=0), support, backend="cpu")


def _call(support=None, shapes=((1, 2, 10, 4),) * 3, dtypes=(torch.float32,) * 3, devices=("cpu",) * 3, **options):
    tensors = [torch.zeros(s, dtype=t, device=d) for s, t, d in zip(shapes, dtypes, devices, strict=True)]
    return sparse_attention(*tensors, support or Support.fibottention(2, 9), **options)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (dict(masking="multiply"), "'multiply'"),
        (dict(backend="cuda"), "'cuda'"),
        (dict(dropout_p=1.0), "1.0"),
        (dict(shapes=((1, 2, 10, 4), (1, 2, 11, 4), (1, 2, 10, 4))), r"\(1, 2, 11, 4\)"),
        (dict(shapes=((1, 2, 40),) * 3), r"\(1, 2, 40\)"),
        (dict(shapes=((1, 2, 10, 0),) * 3), r"no numbers: shape \(1, 2, 10, 0\)"),
        (dict(shapes=((0, 3, 10, 4),) * 3), "2 heads"),
        (dict(support=Support.fibottention(2, 10)), "1 \\+ 10"),
        (dict(support=Support.fibottention(3, 9)), "3 heads"),
        (dict(dtypes=(torch.float32, torch.float64, torch.float32)), "float64"),
        (dict(dtypes=(torch.int64,) * 3), "int64"),
        (dict(devices=("cpu", "meta", "cpu")), "meta"),
    ],
)
def test_bad_arguments_are_shown(arguments, shown):
    with pytest.raises(ValueError, match=shown):
        _call(**arguments)
