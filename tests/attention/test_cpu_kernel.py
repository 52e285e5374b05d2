"""What is particular to the compiled CPU loops: threads, forks, memory layouts, and when they are chosen."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from videofib.attention import Support, functional, sparse_attention
from videofib.attention.kernels.cpu_loops import exp_of_nonpositive

SUPPORT = Support.fibottention(3, 600)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def packed(batch=2, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, SUPPORT.num_tokens + 1, 3, SUPPORT.num_heads, dim, generator=generator)


def results(x, support=SUPPORT, backend="cpu"):
    """Output and the gradient of all inputs, for q, k and v packed as a projection gives them."""
    x = x.detach().requires_grad_()
    out = sparse_attention(*x.permute(2, 0, 3, 1, 4), support, backend=backend)
    (gradient,) = torch.autograd.grad((out * torch.arange(out.numel()).reshape(out.shape).cos()).sum(), x)
    return out.detach(), gradient


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_any_number_of_threads_gives_the_same_bits(threads):
    threads(1)
    expected = results(packed())
    for number in (2, 3, 5):
        threads(number)
        assert same(results(packed()), expected)


def test_several_python_threads_at_once(threads):
    threads(2)
    expected = [results(packed(seed=seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: results(packed(seed=seed)), [0, 1, 2, 3] * 5))
    assert all(same(f, expected[i % 4]) for i, f in enumerate(found))


def _in_child(connection, x):
    connection.send(sparse_attention(*x.permute(2, 0, 3, 1, 4), SUPPORT, backend="cpu").numpy())


def test_a_forked_child_works_after_its_parent_has(threads):
    threads(2)
    expected, _ = results(packed())
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(theirs, packed()))
    child.start()
    assert ours.poll(60), "the forked child did not answer"
    assert torch.equal(torch.from_numpy(ours.recv()), expected)
    child.join()
    assert child.exitcode == 0


def test_any_memory_layout_gives_the_same_and_inputs_stay_as_they_are():
    q, k, v = packed().permute(2, 0, 3, 1, 4)
    expected = sparse_attention(q, k, v, SUPPORT, backend="cpu")
    for layout in (
        lambda x: x.contiguous(),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # the numbers of a row apart
        lambda x: torch.nn.functional.pad(x, (3, 2))[..., 3:-2],
    ):
        inputs = [layout(x) for x in (q, k, v)]
        copies = [x.clone() for x in inputs]
        assert torch.equal(sparse_attention(*inputs, SUPPORT, backend="cpu"), expected)
        assert same(inputs, copies)
    one = q[:1].expand(2, -1, -1, -1)  # stride 0
    torch.testing.assert_close(
        sparse_attention(one, one, one, SUPPORT, backend="cpu"),
        sparse_attention(one, one, one, SUPPORT, backend="reference"),
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_a_number_stays_so_where_the_reference_says(bad, part):
    x = packed(batch=1)
    x[0, 300, part, 1, 3] = bad
    found = sparse_attention(*x.permute(2, 0, 3, 1, 4), SUPPORT, backend="cpu")
    expected = sparse_attention(*x.permute(2, 0, 3, 1, 4), SUPPORT, backend="reference")
    spoiled = ~expected.isfinite().all(-1)
    assert spoiled.any()
    assert not spoiled[:, [0, 2]].any()
    if part < 2:
        assert torch.equal(~found.isfinite().all(-1), spoiled)
    else:  # the reference spoils rows that do not see the value, by 0 * NaN
        sees = SUPPORT.to_mask()[1, :, 300]
        assert torch.equal(~found[0, 1].isfinite().all(-1), sees)


def test_the_output_lies_in_memory_as_the_next_layer_reads_it():
    out = sparse_attention(*packed().permute(2, 0, 3, 1, 4), SUPPORT, backend="cpu")
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dim", [1, 80])
def test_any_head_dim(dim):
    for found, expected in zip(results(packed(dim=dim)), results(packed(dim=dim), backend="reference"), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_exp_is_exact_to_two_units_in_the_last_place():
    x = -np.concatenate([np.linspace(0, 1, 2001), np.linspace(1, 86, 5001)]).astype(np.float32)
    found = np.array([exp_of_nonpositive(value) for value in x])
    exact = np.exp(x.astype(np.float64))
    assert np.abs((found - exact) / np.spacing(exact.astype(np.float32))).max() <= 2
    assert 0 <= exp_of_nonpositive(np.float32(-1e30)) < 1e-37


def test_auto_takes_it_on_the_cpu_unless_there_is_dropout():
    assert functional._fastest("cpu", SUPPORT, 0.0) == "cpu"
    assert functional._fastest("cpu", SUPPORT, 0.1) == "gather"
    assert functional._fastest("cuda", SUPPORT, 0.0) == "gather"
    assert functional._fastest("cpu", Support.dense(2, 9), 0.0) == "dense"
    with pytest.raises(ValueError, match=r"dropout_p=0\.1"):
        sparse_attention(*packed().permute(2, 0, 3, 1, 4), SUPPORT, dropout_p=0.1, backend="cpu")


def test_without_numba_gather_serves_and_says_so_once(monkeypatch, recwarn):
    monkeypatch.setattr(functional, "find_spec", lambda name: None)
    functional._has_numba.cache_clear()
    try:
        results(packed(), backend="auto")
        results(packed(), backend="auto")
    finally:
        functional._has_numba.cache_clear()
    assert [str(w.message).partition(":")[0] for w in recwarn] == ["numba is not installed"]
