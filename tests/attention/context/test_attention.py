"""Attention over slices of tokens in several processes equals that of one: forward and gradient, awkward sizes."""

import contextlib
import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from videofib.attention import (
    CONTEXT_MODES,
    ContextGroup,
    SelfAttention,
    Support,
    check_mode,
    context_parallel_attention,
    sparse_attention,
)
from videofib.attention.context.heads import split_heads
from videofib.distributed.launch import launch

SUPPORTS = {
    "odd N, three heads": Support.fibottention(3, 61),
    "modified, five prefix tokens": Support.fibottention(4, 33, variant="modified", num_prefix_tokens=5),
    "short, no prefix": Support.fibottention(4, 7, num_prefix_tokens=0),
    "no prefix": Support.fibottention(6, 47, num_prefix_tokens=0),
    "more prefix tokens than a slice holds": Support.fibottention(5, 3, num_prefix_tokens=5),
    "empty and far heads": Support(((), (0, 3), (2, 50), (8,)), 9, 1),
    "window": Support.window(2, 29, radius=2),
    "dense": Support.dense(3, 10),
    "dense, no prefix": Support.dense(6, 29, num_prefix_tokens=0),
    "dense, five prefix tokens": Support.dense(6, 28, num_prefix_tokens=5),
}
CASES = [  # masking, backend, dtype, tolerance
    ("exclude", "reference", torch.float64, 1e-12),
    ("zero_logit", "reference", torch.float64, 1e-12),
    ("exclude", "gather", torch.float64, 1e-12),
    ("exclude", "auto", torch.float64, 1e-12),
    ("exclude", "auto", torch.float32, 1e-5),
    ("zero_logit", "auto", torch.float32, 1e-5),
    ("exclude", "auto", torch.bfloat16, 2e-2),
]


def qkv(support, dtype, dim=6, batch=2):
    """Three (B, H, P+N, D) leaves, the same in every process."""
    total = support.num_prefix_tokens + support.num_tokens
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(batch, total, 3, support.num_heads, dim, dtype=torch.float64, generator=generator)
    return [x.to(dtype).requires_grad_() for x in packed.permute(2, 0, 3, 1, 4)]


def modes(support, processes):
    """The modes that serve."""
    for mode in CONTEXT_MODES:
        with contextlib.suppress(ValueError):
            check_mode(mode, support, processes)
            yield mode


def compare_attention():
    """In every process: its slice of the output and of the gradients is that of the full sequence."""
    tried = set()
    for name, support in SUPPORTS.items():
        size, total = dist.get_world_size(), support.num_prefix_tokens + support.num_tokens
        for masking, backend, dtype, tolerance in CASES if total >= size else ():
            inputs = qkv(support, dtype)
            out = sparse_attention(*inputs, support, masking=masking, backend=backend)
            probe = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
            expected = [out, *torch.autograd.grad((out * probe).sum(), inputs)]
            for mode in modes(support, size):
                tried.add(mode)
                tokens = ContextGroup(mode=mode).slice(total)
                local = slice(tokens.positions.start, tokens.positions.stop)
                slices = [x.detach()[:, :, local].requires_grad_() for x in inputs]
                out = context_parallel_attention(*slices, support, tokens, masking=masking, backend=backend)
                found = [out, *torch.autograd.grad((out * probe[:, :, local]).sum(), slices)]
                assert [x.dtype for x in found] == [dtype] * 4
                for a, b in zip(found, expected, strict=True):
                    try:
                        torch.testing.assert_close(a, b[:, :, local], atol=tolerance, rtol=tolerance)
                    except AssertionError as error:
                        raise AssertionError(f"{mode}, {name}, {masking}, {backend}: {error}") from None
    assert tried == set(CONTEXT_MODES) - ({"heads"} if dist.get_world_size() > 6 else set())


class Norm32(nn.LayerNorm):
    """A layer norm that returns 32 bits, as all do under CUDA's autocast."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def shared_layer(mode):
    """A layer under autocast, with norms of queries and keys."""
    context = ContextGroup(mode=mode)
    torch.manual_seed(0)
    kind = Support.dense if mode == "ring" else Support.fibottention
    layer = SelfAttention(12, 3, lambda n: kind(3, n), qk_norm=1e-6)
    layer.q_norm, layer.k_norm = Norm32(4), Norm32(4)
    x = torch.randn(2, 1 + 16, 12)
    tokens = context.slice(17)
    local = slice(tokens.positions.start, tokens.positions.stop)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(x), layer(x[:, local], tokens)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected[:, local], atol=2e-2, rtol=2e-2)
    layer.attn_drop = 0.5
    if mode in ("heads", "auto"):  # each process drops weights of its heads
        assert torch.isfinite(layer(x[:, local], tokens)).all()
    else:
        with pytest.raises(ValueError, match=f"mode '{mode}' of context parallelism has no dropout, got dropout_p=0.5"):
            layer(x[:, local], tokens)


def half_precision_sums_in_full():
    """Blocks of the ring are added up in 32 bits: 16 of them with 16-bit sums would lose what each adds."""
    context = ContextGroup(mode="ring")
    support = Support.dense(2, 4096, num_prefix_tokens=0)
    inputs = qkv(support, torch.bfloat16, batch=1)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    tokens = context.slice(4096)
    local = slice(tokens.positions.start, tokens.positions.stop)
    slices = [x.detach()[:, :, local].requires_grad_() for x in inputs]
    found = torch.autograd.grad(context_parallel_attention(*slices, support, tokens).double().sum(), slices[2])[0]
    expected = torch.autograd.grad(sparse_attention(*exact, support).sum(), exact[2])[0][:, :, local]
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1.02 * 2**-8)  # the last rounding alone


def refusals():
    context = ContextGroup()
    assert copy.deepcopy(context) is context  # as a moving average of the weights copies its model
    with pytest.raises(ValueError, match="unknown mode of context parallelism 'rings'; known: auto, heads, ring, halo"):
        ContextGroup(mode="rings")

    def attend(mode, support, **options):
        tokens = ContextGroup(mode=mode).slice(8)
        q = torch.zeros(1, support.num_heads, 4, 2)
        return context_parallel_attention(q, q, q, support, tokens, **options)

    for mode, support, options, message in (
        ("heads", Support.dense(1, 7), {}, "2 processes cannot share the 1 heads"),
        ("ring", Support.fibottention(2, 7), {}, r"mode 'ring' .* is for dense attention.*got Support\(num_heads=2"),
        ("halo", Support.dense(2, 7), {}, "mode 'halo' .* is for sparse attention"),
        ("halo", Support.fibottention(2, 7), {"dropout_p": 0.1}, "has no dropout, got dropout_p=0.1; set mode 'heads'"),
        (
            "halo",
            Support.fibottention(2, 7),
            {"backend": "triton"},
            "backend 'triton' computes no halo, which 2 processes",
        ),
        ("halo", Support.fibottention(2, 7), {"masking": "zero"}, "unknown masking 'zero'; known: exclude, zero_logit"),
        ("ring", Support.dense(2, 7), {"attend": lambda q, *_, **__: q}, "mode 'ring' .* plain attention only"),
        ("auto", Support.dense(2, 9), {}, r"the support is for 1 \+ 9 tokens; the processes share 8"),
    ):
        with pytest.raises(ValueError, match=message):
            attend(mode, support, **options)
    q = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match="holds 4 of 8 tokens, and the support has 2 heads; got q of shape"):
        context_parallel_attention(q, q, q, Support.dense(2, 7), context.slice(8))
    q = torch.zeros(1, 2, 4, 2)
    with pytest.raises(ValueError, match="one shape"):
        context_parallel_attention(q, q, q.double(), Support.dense(2, 7), context.slice(8))
    with pytest.raises(ValueError, match="1 tokens cannot be shared by 2 processes"):
        context.slice(1)


def no_second_derivatives():
    for mode, support in (("ring", Support.dense(2, 7)), ("halo", Support.fibottention(2, 7))):
        tokens = ContextGroup(mode=mode).slice(8)
        q = torch.randn(1, 2, 4, 2, requires_grad=True)
        out = context_parallel_attention(q, q, q, support, tokens)
        gradient = torch.autograd.grad(out.square().sum(), q, create_graph=True)[0]
        with pytest.raises(RuntimeError):
            gradient.sum().backward()


def in_two_processes(folder):
    compare_attention()
    for mode in CONTEXT_MODES:
        shared_layer(mode)
    half_precision_sums_in_full()
    refusals()
    no_second_derivatives()
    sums(folder)


def sums(folder):
    """A sum's gradient is the sum of the gradients of all losses."""
    context, rank = ContextGroup(), dist.get_rank()
    x = torch.full((3,), rank + 1.0, requires_grad=True)
    total = context.sum(x)
    (total * (rank + 1)).sum().backward()
    assert total.tolist() == [3.0] * 3
    assert x.grad.tolist() == [3.0] * 3
    (folder / f"rank {rank} is done").touch()


def test_two_processes_compute_what_one_does(tmp_path):
    launch(in_two_processes, (tmp_path,), processes=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_four_processes_compute_what_one_does():
    launch(compare_attention, processes=4)


@pytest.mark.slow
def test_eight_processes_compute_what_one_does():
    """More than there are heads."""
    launch(compare_attention, processes=8)


def test_heads_are_divided_by_their_pairs():
    assert split_heads(Support.dense(3, 10), 2) in {(range(0, 1), range(1, 3)), (range(0, 2), range(2, 3))}
    assert split_heads(Support.dense(12, 10), 4) == tuple(range(h, h + 3) for h in range(0, 12, 3))
    uneven = Support(((1, 2, 3, 4, 5), (1,), (1,), (1,), (1,)), 100, 0)  # the first head has as much to do as four
    assert split_heads(uneven, 2) == (range(0, 1), range(1, 5))
    for ranks in (2, 3, 5, 7, 12):
        parts = split_heads(Support.fibottention(12, 196), ranks)
        assert [head for part in parts for head in part] == list(range(12))
        assert len(parts) == ranks
        assert min(map(len, parts)) >= 1


def test_the_support_of_some_heads():
    support = Support.fibottention(6, 40, num_prefix_tokens=2)
    assert torch.equal(support.for_heads(range(2, 5)).to_mask(), support.to_mask()[2:5])
    assert Support.dense(4, 9).for_heads(range(1, 2)).is_dense
