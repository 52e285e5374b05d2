"""What is particular to the compiled CPU loops: threads, forks, memory layouts, and when they are chosen."""

import inspect
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import config, njit

from videofib.attention import Support, backends, sparse_attention
from videofib.attention.kernels.cpu import compiled, emitter, lists, workspace
from videofib.attention.kernels.cpu.backward import make_backward
from videofib.attention.kernels.cpu.emitter import LANES
from videofib.attention.kernels.cpu.forward import make_forward
from videofib.attention.kernels.cpu.vectors import exponentiate, normalise

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


@pytest.mark.slow
def test_code_kept_on_disk_gives_the_bits_of_code_just_compiled(tmp_path):
    """numba optimises what it keeps on disk once more. The second process loads what the first compiled, and compiles
    again for another text of the source."""
    program = """
import torch
from videofib.attention import Support, sparse_attention
from videofib.attention.kernels.cpu import backward, compiled, forward
loops = [(make, 16, threaded) for make in (forward.make_forward, backward.make_backward) for threaded in (False, True)]
def hits():
    return [sum(compiled.compiled(*loop).stats.cache_hits.values()) for loop in loops]
def attend(masking):
    x = torch.randn(2, 601, 3, 3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = sparse_attention(*x.permute(2, 0, 3, 1, 4), Support.fibottention(3, 600), masking=masking, backend="cpu")
    assert torch.get_num_threads() == threads
    (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
    assert torch.get_num_threads() == threads
    print(masking, [part.contiguous().view(torch.int32).sum().item() for part in (out, *x.grad.unbind(2))])
for masking in ("exclude", "zero_logit"):
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        attend(masking)
print("hits", hits())
if sum(hits()):
    compiled._SOURCE += 1
    compiled.compiled.cache_clear()
    torch.set_num_threads(threads := 1)
    attend("exclude")
    print("hits", hits())
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "8"}
    lines = []
    for _ in range(2):
        command = [sys.executable, "-c", program]
        lines += subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    assert [line for line in lines if "hits" in line] == [f"hits {n}" for n in ([0] * 4, [1] * 4, [0] * 4)]
    bits = [line for line in lines if "hits" not in line]
    assert len(bits) == 2 * 6 + 1
    assert len(set(bits)) == 2, bits  # one of each masking


def test_torch_keeps_its_number_of_threads_and_numba_its_settings():
    """numba starts as many threads as it may, 8 here, and with them sets OpenMP's number, which is torch's."""
    program = """
import numba, torch
from videofib.attention import Support, sparse_attention
from videofib.attention.kernels.cpu import kernel
def settings():
    return {name: getattr(numba.config, name) for name in dir(numba.config) if name.isupper()}
before = settings()
torch.set_num_threads(2)
x = torch.randn(3, 1, 2, 10, 8).requires_grad_()
out = sparse_attention(*x, Support.fibottention(2, 9), backend="cpu")
print(numba.threading_layer(), torch.get_num_threads())
out.sum().backward()
print(torch.get_num_threads(), settings() == before)
"""
    command = [sys.executable, "-c", program]
    environment = os.environ | {"NUMBA_NUM_THREADS": "8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["omp", "2", "2", "True"]


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
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # rows with strides between their numbers
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
def test_nan_and_infinity_spread_as_in_the_reference(bad, part):
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


def test_the_output_has_the_memory_layout_that_the_next_layer_reads():
    out = sparse_attention(*packed().permute(2, 0, 3, 1, 4), SUPPORT, backend="cpu")
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dim", [1, 80])
def test_any_head_dim(dim, threads):
    threads(1)  # which compiles in half the time
    for found, expected in zip(results(packed(dim=dim)), results(packed(dim=dim), backend="reference"), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@njit
def _exponentials(x):
    exponentiate(x, 0, len(x), x.dtype.type(0))


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -86), (np.float64, -707)])
def test_exp_is_exact_to_two_units_in_the_last_place(dtype, lowest):
    x = np.concatenate([np.linspace(0, -1, 2000), np.linspace(-1, lowest, 5040)]).astype(dtype)  # a multiple of LANES
    exact = np.exp(x.astype(np.longdouble))
    _exponentials(x)
    assert np.abs((x - exact) / np.spacing(exact.astype(dtype))).max() <= 2
    x = np.full(LANES, -1e30, dtype)
    _exponentials(x)
    assert (x == 0).all()


@njit
def _logs_and_reciprocals(x, logs):
    normalise(x, logs, len(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_is_exact_to_three_units_in_the_last_place(dtype):
    x = np.concatenate([np.linspace(0.5, 2, 4000), np.logspace(0, 30, 4000)]).astype(dtype)  # a multiple of LANES
    exact = np.log(x.astype(np.longdouble))
    reciprocals, logs = x.copy(), np.zeros_like(x)
    _logs_and_reciprocals(reciprocals, logs)
    assert np.abs((logs - exact) / np.spacing(np.abs(exact).astype(dtype))).max() <= 3
    assert (reciprocals == 1 / x).all()
    x = np.full(LANES, np.nan, dtype)
    x[0], logs = np.inf, np.zeros(LANES, dtype)
    _logs_and_reciprocals(x, logs)
    assert logs[0] == np.inf
    assert np.isnan(logs[1:]).all()


@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_logits_far_from_zero_stay_finite(masking, size):
    """At 30, logits reach +-1e4; where a query sees all keys, no masked key raises their maximum to 0."""
    for support in (Support.fibottention(2, 40), Support.dense(1, 5), Support(((), (1,)), 6, 0)):
        x = 30 * torch.randn(1, support.num_prefix_tokens + support.num_tokens, 3, support.num_heads, 8)
        x[:, :, 1] = -x[:, :, 0] * size
        inputs = [x.double().permute(2, 0, 3, 1, 4).unbind(0), x.permute(2, 0, 3, 1, 4).unbind(0)]
        exact, found = (
            sparse_attention(*each, support, masking=masking, backend=backend)
            for each, backend in zip(inputs, ("reference", "cpu"), strict=True)
        )
        assert found.isfinite().all()
        torch.testing.assert_close(found.double(), exact, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("tokens", [1, 2, 7, 197, 1569])
@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_any_number_of_tokens(tokens, num_prefix):
    """Rows are copied before they are read from between 197 and 1569 tokens on."""
    support = Support.fibottention(2, tokens, num_prefix_tokens=num_prefix)
    x = torch.randn(1, tokens + num_prefix, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    for inputs in (x, x.permute(2, 0, 3, 1, 4).contiguous().permute(1, 3, 0, 2, 4)):
        for found, expected in zip(results(inputs, support), results(inputs, support, "gather"), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_the_longest_sequence_and_large_results():
    """18,817 tokens: results so large that their memory is reused, but not while a tensor refers to it."""
    support = Support.fibottention(2, 18816)
    x = torch.randn(1, 18817, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = x.permute(2, 0, 3, 1, 4)
    first = sparse_attention(q, k, v, support, backend="cpu")
    copy, view = first.clone(), first[:, 1]
    del first
    second = sparse_attention(v, k, q, support, backend="cpu")
    assert torch.equal(view, copy[:, 1])
    assert not torch.equal(second, copy)
    assert second.data_ptr() % 64 == 0
    del view
    third = sparse_attention(q, k, v, support, backend="cpu")
    assert torch.equal(third, copy)
    torch.testing.assert_close(third, sparse_attention(q, k, v, support, backend="gather"), atol=1e-5, rtol=1e-5)


def test_many_heads_and_a_large_batch():
    support = Support.fibottention(1, 9)
    x = torch.randn(3000, 10, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(results(x, support), results(x, support, "reference"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def _make(dim, cache_key):
    def loop(x):
        _ = cache_key
        return x + dim

    return loop


def test_compiled_code_is_kept_by_head_dim_threads_and_source(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def hits(dim, threaded):
        loop = compiled.compiled.__wrapped__(_make, dim, threaded)  # as a process does that has not compiled it yet
        assert loop(4) == 4 + dim
        return sum(loop.stats.cache_hits.values())

    for key in ((3, False), (5, False), (3, True)):
        assert [hits(*key), hits(*key)] == [0, 1]
    monkeypatch.setattr(compiled, "_SOURCE", compiled._SOURCE + 1)
    assert [hits(3, False), hits(3, False)] == [0, 1]
    for make in (make_forward, make_backward):
        assert set(make(8, 1).__code__.co_freevars) == {"dim", "cache_key"}


def test_a_change_of_any_file_of_the_kernel_is_noticed(tmp_path):
    folder = shutil.copytree(Path(compiled.__file__).parent, tmp_path / "cpu")
    files = sorted(folder.glob("*.py"))
    assert {"forward.py", "backward.py", "lists.py", "vectors.py", "emitter.py"} <= {file.name for file in files}
    checksums = {compiled.source_checksum(folder)}
    for file in files:
        file.write_text(file.read_text() + "\n")
        checksums.add(compiled.source_checksum(folder))
    assert len(checksums) == len(files) + 1
    inlined = (exponentiate, make_forward, make_backward, lists.list_keys, workspace.padded, emitter.Emitter)
    assert {Path(inspect.getfile(getattr(x, "_defn", x))).parent for x in inlined} == {Path(compiled.__file__).parent}


def test_it_works_where_no_folder_is_writable(monkeypatch):
    def refuse(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(compiled, "njit", refuse)
    assert compiled.compiled.__wrapped__(_make, 1, False)(2) == 3


def test_auto_takes_it_on_the_cpu_unless_there_is_dropout():
    q = packed()
    assert backends.fastest(q, SUPPORT, 0.0) == "cpu"
    assert backends.fastest(q, SUPPORT, 0.1) == "gather"
    assert backends.fastest(q.to("meta"), SUPPORT, 0.0) == "gather"
    assert backends.fastest(q, Support.dense(2, 9), 0.0) == "dense"
    with pytest.raises(ValueError, match=r"dropout_p=0\.1"):
        sparse_attention(*packed().permute(2, 0, 3, 1, 4), SUPPORT, dropout_p=0.1, backend="cpu")


def test_without_numba_gather_serves_and_warns(monkeypatch):
    monkeypatch.setitem(backends.INSTALLED, "numba", False)
    with pytest.warns(UserWarning, match="numba is not installed: .* slower backend 'gather'"):
        results(packed(), backend="auto")
    with pytest.raises(ValueError, match="backend 'cpu' needs numba; pip install numba"):
        results(packed())
