"""Backends of attention as ``videofib doctor`` examines them."""

from dataclasses import replace

import pytest
import torch

from videofib.attention.backends import BACKENDS, INSTALLED
from videofib.doctor.backends import backends, checked, compile_ahead
from videofib.doctor.finding import State


def test_all_that_run_on_this_machine_agree_with_the_reference():
    found = {finding.part: finding for finding in backends()}
    assert list(found) == [f"backend {name}" for name in BACKENDS]
    for part in ("reference", "gather", "dense", "cpu"):
        assert found[f"backend {part}"].state is State.WORKS, found[f"backend {part}"]
    if not torch.cuda.is_available():
        assert str(found["backend triton"]).split(maxsplit=3)[::3] == ["unusable", "needs a CUDA device"]


def shifted(attend):
    """``attend`` with the values of the next token."""
    return lambda q, k, v, *rest: attend(q, k, v.roll(1, dims=2), *rest)


def not_a_number(attend):
    return lambda *arguments: attend(*arguments) * torch.nan


@pytest.mark.parametrize("name", ["reference", "gather", "dense", "cpu"])
@pytest.mark.parametrize("wrongly", [shifted, not_a_number])
def test_wrong_numbers_fail(name, wrongly, monkeypatch):
    monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], attend=wrongly(BACKENDS[name].attend)))
    finding = checked(name, BACKENDS[name])
    assert finding.state is State.FAILED
    assert finding.text.startswith("wrong: largest difference from ")


def test_a_missing_compiler_fails(monkeypatch):
    monkeypatch.setitem(INSTALLED, "numba", False)
    finding = checked("cpu", BACKENDS["cpu"])
    assert finding.state is State.FAILED
    assert "pip install numba" in finding.text
    (kernel,) = compile_ahead([64])
    assert (kernel.state, kernel.text) == (State.FAILED, finding.text)


def test_compiling_ahead_compiles_both_directions():
    from videofib.attention.kernels.cpu.backward import make_backward
    from videofib.attention.kernels.cpu.compiled import compiled
    from videofib.attention.kernels.cpu.forward import make_forward

    threaded = torch.get_num_threads() > 1
    loops = [compiled(make, 64, threaded) for make in (make_forward, make_backward)]
    state = torch.get_rng_state()
    (finding,) = compile_ahead([64])
    assert finding.state is State.WORKS
    assert finding.part == "kernel, head dim 64"
    assert finding.text.startswith("forward ")
    assert all(loop.overloads for loop in loops)
    assert torch.equal(torch.get_rng_state(), state)
