"""Every backend of attention over patterns against explicit sums, forward and gradient, on awkward sizes."""

import pytest
import torch

from videofib.attention import Pattern, Support, pattern_attention, patterns, sparse_attention


def drawn(num_heads, num_tokens, density, num_prefix_tokens):
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(num_heads, num_tokens, num_tokens, generator=generator) < density
    return Pattern.from_mask(mask, num_prefix_tokens)


PATTERNS = {
    "random": drawn(3, 37, 0.2, 1),
    "queries and keys without pairs": drawn(2, 19, 0.03, 0),
    "five prefix tokens": drawn(2, 6, 0.3, 5),
    "one token": drawn(2, 1, 0.5, 0),
    "dense": drawn(2, 18, 1.1, 1),
    "neighbourhood": patterns.neighbourhood(2, (3, 4, 5), kernel=(3, 3, 2)),
    "anti-diagonals": patterns.cross_diagonal(4, 33, num_prefix_tokens=2),
    "global tokens": patterns.bigbird(2, 40, radius=1, num_random=2, num_global=3, num_prefix_tokens=0),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def qkv(pattern, dtype, dim=8, batch=2):
    """Three (B, H, P+N, D) leaves, as non-contiguous as a packed projection gives them."""
    total = pattern.num_prefix_tokens + pattern.num_tokens
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(batch, total, 3, pattern.num_heads, dim, dtype=dtype, generator=generator)
    return [x.requires_grad_() for x in packed.permute(2, 0, 3, 1, 4)]


def explicit(q, k, v, pattern, scale):
    """Each query's softmax by itself, over the keys of its row of the mask."""
    mask = pattern.to_mask()
    rows = []
    for head in range(pattern.num_heads):
        for i in range(mask.shape[1]):
            keys = mask[head, i].nonzero().flatten()
            weights = ((q[:, head, i : i + 1] * k[:, head, keys]).sum(-1) * scale).softmax(-1)
            rows.append((weights[..., None] * v[:, head, keys]).sum(1))
    return torch.stack(rows, 1).view(q.shape)


def with_gradients(out, inputs):
    probe = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad((out * probe).sum(), inputs)]


@pytest.mark.parametrize("backend", ["reference", "gather", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PATTERNS)
def test_backends_are_the_explicit_sums(name, dtype, backend):
    pattern = PATTERNS[name]
    inputs = qkv(pattern, dtype)
    found = with_gradients(pattern_attention(*inputs, pattern, scale=0.7, backend=backend), inputs)
    expected = with_gradients(explicit(*inputs, pattern, 0.7), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dim", [1, 17])
def test_kernel_takes_any_head_dim(dim):
    pattern = PATTERNS["random"]
    inputs = qkv(pattern, torch.float64, dim)
    found = with_gradients(pattern_attention(*inputs, pattern, backend="cpu"), inputs)
    expected = with_gradients(pattern_attention(*inputs, pattern, backend="reference"), inputs)
    torch.testing.assert_close(found, expected)


def test_diagonals_are_sparse_attention():
    support = Support.fibottention(3, 50)
    pattern = Pattern.from_support(support)
    inputs = qkv(pattern, torch.float64)
    found = with_gradients(pattern_attention(*inputs, pattern), inputs)
    torch.testing.assert_close(found, with_gradients(sparse_attention(*inputs, support), inputs))


@pytest.mark.parametrize("backend", ["gather", "cpu"])
def test_a_pair_outside_the_pattern_has_no_gradient(backend):
    pattern = PATTERNS["queries and keys without pairs"]
    inputs = qkv(pattern, torch.float64)
    out = pattern_attention(*inputs, pattern, backend=backend)
    mask = pattern.to_mask()
    for i in range(mask.shape[1]):
        for gradient in torch.autograd.grad(out[:, :, i].sum(), inputs[1:], retain_graph=True):
            assert (gradient.abs().sum((0, 3)) > 0).logical_and(~mask[:, i]).sum() == 0


@pytest.mark.parametrize("backend", ["gather", "cpu"])
def test_unseen_keys_may_be_infinite(backend):
    pattern = Pattern.from_mask(torch.eye(9, dtype=torch.bool)[None].repeat(2, 1, 1), 0)
    q, k, v = (x.detach() for x in qkv(pattern, torch.float64))
    k[:, :, 4], v[:, :, 4] = float("nan"), float("inf")
    out = pattern_attention(q, k, v, pattern, backend=backend)
    assert out[:, :, [0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


@pytest.mark.parametrize("backend", ["gather", "cpu"])
def test_extreme_logits_stay_finite(backend):
    pattern = PATTERNS["random"]
    inputs = [x.detach().mul(100).requires_grad_() for x in qkv(pattern, torch.float32)]
    found = with_gradients(pattern_attention(*inputs, pattern, backend=backend), inputs)
    expected = with_gradients(pattern_attention(*inputs, pattern, backend="reference"), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("backend", ["gather", "cpu"])
def test_half_precision_is_computed_in_single(backend):
    pattern = PATTERNS["random"]
    half = [x.detach().to(torch.bfloat16) for x in qkv(pattern, torch.float64)]
    expected = pattern_attention(*[x.double() for x in half], pattern, backend="reference")
    found = pattern_attention(*half, pattern, backend=backend)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=2**-8, rtol=2**-8)
    with torch.autocast("cpu", torch.bfloat16):
        cast = pattern_attention(*[x.float() for x in half], pattern, backend=backend)
    torch.testing.assert_close(cast, found)


def test_two_threads_give_the_same_bits():
    pattern = PATTERNS["random"]
    inputs, threads = qkv(pattern, torch.float32), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(with_gradients(pattern_attention(*inputs, pattern, backend="cpu"), inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_operator_is_registered_completely():
    pattern = PATTERNS["random"]
    inputs = qkv(pattern, torch.float64)
    tables = pattern.rowptr, pattern.cols, pattern.keyptr, pattern.queries, pattern.positions
    torch.library.opcheck(torch.ops.videofib.pattern_attention.default, (*inputs, *tables, pattern.num_pairs(), 0.5))


@pytest.mark.parametrize("backend", ["reference", "gather", "cpu"])
def test_compiled_and_transformed(backend):
    pattern = PATTERNS["random"]
    inputs = qkv(pattern, torch.float64)

    def loss(q, k, v):
        return pattern_attention(q, k, v, pattern, backend=backend).square().sum()

    expected = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), expected)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1, 2))(*inputs), expected)


def test_dropout_keeps_the_mean_and_the_gradient():
    pattern = PATTERNS["five prefix tokens"]
    q, k, v = (x.detach() for x in qkv(pattern, torch.float64, batch=1))
    torch.manual_seed(0)
    draws = torch.stack([pattern_attention(q, k, v, pattern, dropout_p=0.3) for _ in range(400)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), pattern_attention(q, k, v, pattern), atol=0.25, rtol=0)


def test_second_derivatives():
    pattern = PATTERNS["one token"]
    inputs = qkv(pattern, torch.float64)
    out = pattern_attention(*inputs, pattern, backend="cpu")
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs[2], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.sum().backward()
    small = [x[:1, :, :4, :2].detach().requires_grad_() for x in qkv(drawn(2, 3, 0.4, 1), torch.float64)]
    assert torch.autograd.gradgradcheck(
        lambda q, k, v: pattern_attention(q, k, v, drawn(2, 3, 0.4, 1), backend="gather"), small
    )


@pytest.mark.parametrize("backend", ["auto", "reference", "gather", "cpu"])
def test_tensors_without_values_have_the_shape(backend):
    pattern = PATTERNS["random"]
    q, k, v = (x.to("meta") for x in qkv(pattern, torch.float32))
    assert pattern_attention(q, k, v, pattern, backend=backend).shape == q.shape


def test_an_empty_batch():
    pattern = PATTERNS["random"]
    inputs = qkv(pattern, torch.float32, batch=0)
    assert [len(x) for x in with_gradients(pattern_attention(*inputs, pattern), inputs)] == [0] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(backend="triton"), "'triton'"),
        (dict(backend="cpu", dropout_p=0.5), "0.5"),
        (dict(dropout_p=1.0), "1.0"),
    ],
)
def test_bad_options_are_shown(options, message):
    pattern = PATTERNS["random"]
    with pytest.raises(ValueError, match=message):
        pattern_attention(*qkv(pattern, torch.float32), pattern, **options)
    with pytest.raises(ValueError, match="1 \\+ 37"):
        pattern_attention(*[torch.zeros(1, 3, 37, 8)] * 3, pattern)
