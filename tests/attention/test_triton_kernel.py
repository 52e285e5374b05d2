"""The Triton kernel against the reference: on a GPU, and on the CPU by Triton's interpreter.

Triton decides when it sees a kernel whether to interpret it, so interpretation has a process of its own.
"""

import os
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from videofib.attention import Support
from videofib.attention.kernels import gather, reference

triton = pytest.importorskip("triton", reason="triton is not installed")

SUPPORTS = {
    "fibottention": Support.fibottention(3, 70),
    "modified": Support.fibottention(2, 41, variant="modified"),
    "one token": Support.fibottention(2, 1),
    "one token, no prefix": Support.fibottention(1, 1, num_prefix_tokens=0),
    "two tokens, no prefix": Support.fibottention(2, 2, num_prefix_tokens=0),
    "short, no prefix": Support.fibottention(4, 7, num_prefix_tokens=0),
    "longer, no prefix": Support.fibottention(2, 47, num_prefix_tokens=0),
    "five prefix tokens": Support.fibottention(2, 33, num_prefix_tokens=5),
    "empty and far heads": Support(((), (0, 3), (2, 50), (8,)), 9, 1),
    "empty head, no prefix": Support(((), (1,)), 6, 0),
    "all heads empty, no prefix": Support(((), ()), 3, 0),
    "dense": Support.dense(2, 10),
}
WORKER = """
import pickle, sys
import torch
from videofib.attention.kernels import triton as kernel
torch.set_num_threads(1)
while True:
    settings, function, arguments = pickle.load(sys.stdin.buffer)
    try:
        before = {name: getattr(kernel, name) for name in settings}
        for name in settings:
            setattr(kernel, name, settings[name])
        answer = getattr(kernel, function)(*arguments)
        for name in settings:
            setattr(kernel, name, before[name])
    except Exception as error:
        answer = error
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


def interpreted():
    """Yields a caller of the kernel's functions in a process that interprets them."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-c", WORKER]  # numpy warns of log(0) in rows that are not read
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=root) as worker:

        def call(function, *arguments, **settings):
            pickle.dump((settings, function, arguments), worker.stdin)
            worker.stdin.flush()
            answer = pickle.load(worker.stdout)
            if isinstance(answer, Exception):
                raise answer
            return answer

        yield call
        worker.kill()


def on_device(x):
    """x on the GPU with the strides it has here; ``cuda`` would remove the gaps between its rows."""
    storage = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    return storage.cuda().as_strided(x.size(), x.stride(), x.storage_offset())


def on_gpu():
    """Yields a caller of the kernel's functions on the GPU, for tensors on the CPU."""
    from videofib.attention.kernels import triton as kernel

    def call(function, *arguments, **settings):
        arguments = [on_device(x) if isinstance(x, torch.Tensor) else x for x in arguments]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(kernel, name, value)
            return tuple(x.cpu() for x in getattr(kernel, function)(*arguments))

    yield call


@pytest.fixture(scope="module", params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernel(request):
    """``kernel(function, *arguments, **settings)``: a function of the kernel's module, with its constants changed."""
    if request.param == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield from interpreted() if request.param == "interpreter" else on_gpu()


def inputs(support, dtype=torch.float32, dim=8, batch=1, size=1.0):
    """q, k, v as slices of one packed projection, and d_out: (B, H, P+N, D)."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, support.num_prefix_tokens + support.num_tokens, 4, support.num_heads, dim)
    q, k, v, g = torch.randn(shape, generator=generator).mul(size).to(dtype).permute(2, 0, 3, 1, 4)
    return q, k, v, g / size


def results(kernel, q, k, v, g, support, masking, **settings):
    """Output, lse and gradients."""
    options = support, masking, q.shape[-1] ** -0.5
    out, lse = kernel("forward", q, k, v, *options, **settings)
    return out, lse, *kernel("backward", g, q, k, v, out, lse, *options, **settings)


def expected(q, k, v, g, support, masking, attend=reference.attend):
    """The same in float64."""
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves, support, masking, q.shape[-1] ** -0.5, 0.0)
    logits = leaves[0].detach() @ leaves[1].detach().transpose(-2, -1) * q.shape[-1] ** -0.5
    logits = logits.masked_fill(~support.to_mask().to(q.device), float("-inf") if masking == "exclude" else 0.0)
    return out.detach(), logits.logsumexp(-1), *torch.autograd.grad((out * g).sum(), leaves)


def check(found, exact, dtype, tolerance):
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, exact, strict=True):
        assert a.dtype == (torch.float32 if name == "lse" else dtype), name
        assert torch.isfinite(a).all(), name
        torch.testing.assert_close(
            a.double(), b, atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize("name", SUPPORTS)
def test_it_is_the_reference(kernel, name, masking):
    support = SUPPORTS[name]
    arguments = (*inputs(support), support, masking)
    check(results(kernel, *arguments), expected(*arguments), torch.float32, 1e-5)


@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize(("dim", "dtype"), [(1, "float32"), (24, "float16"), (64, "bfloat16"), (80, "float32")])
def test_any_head_dim_and_dtype(kernel, dim, dtype, masking):
    support, dtype = Support.fibottention(1, 35), getattr(torch, dtype)
    arguments = (*inputs(support, dtype, dim, batch=2), support, masking)
    # of 16 bits, the rounding of the output and, through delta, of out; 32 bits must not be TF32
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    check(results(kernel, *arguments), expected(*arguments), dtype, tolerance)


@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize("settings", [dict(CHUNK=32), dict(WIDE=0)], ids=["prefix rows in parts", "wide addresses"])
def test_what_only_long_sequences_need(kernel, settings, masking):
    support = Support.fibottention(1, 72, num_prefix_tokens=2)
    arguments = (*inputs(support), support, masking)
    check(results(kernel, *arguments, **settings), expected(*arguments), torch.float32, 1e-5)


@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize(
    "support", [Support.fibottention(2, 40), Support.dense(1, 3), SUPPORTS["empty head, no prefix"]]
)
def test_extreme_logits_stay_finite(kernel, support, masking):
    arguments = (
        *inputs(support, size=100.0),
        support,
        masking,
    )  # logits to about 5e4, whose float32 have steps of 4e-3
    for a, b in zip(results(kernel, *arguments), expected(*arguments), strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-2)


def test_logits_all_far_below_zero(kernel):
    """Where a query sees all keys, no masked key raises the softmax's maximum to 0."""
    support = Support.dense(1, 5)
    q, k, v, g = inputs(support)
    arguments = (q.abs() * 100, -k.abs() * 100, v, g, support, "zero_logit")
    check(results(kernel, *arguments), expected(*arguments), torch.float32, 1e-2)


def test_any_layout_of_the_inputs_gives_one_of_the_outputs(kernel):
    support = SUPPORTS["short, no prefix"]
    q, k, v, g = inputs(support, batch=2)
    exact = results(kernel, q, k, v, g, support, "exclude")
    for layout in (
        lambda x: x.contiguous(),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # rows with strides between their numbers
        lambda x: torch.nn.functional.pad(x, (3, 2))[..., 3:-2],
    ):
        found = results(kernel, layout(q), k, layout(v), layout(g), support, "exclude")
        assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
    q, k, v, g = (x[:1, :, :1, :1].expand_as(x) for x in (q, k, v, g))  # strides 0
    arguments = (q, k, v, g, support, "zero_logit")
    check(results(kernel, *arguments), expected(*arguments), torch.float32, 1e-5)
    out, _ = kernel("forward", q, k, v, support, "exclude", 1.0)
    assert out.transpose(1, 2).is_contiguous()


def test_nan_spreads_to_the_queries_that_see_it(kernel):
    support = Support.fibottention(2, 40)
    q, k, v, _ = inputs(support)
    k = k.clone()
    k[0, 1, 20] = float("nan")
    out, _ = kernel("forward", q, k, v, support, "exclude", 1.0)
    assert torch.equal(~out[0, 1].isfinite().all(-1), support.to_mask()[1, :, 20])
    assert out[0, 0].isfinite().all()


def test_double_precision_is_rejected(kernel):
    q, k, v, _ = inputs(SUPPORTS["one token"], torch.float64)
    with pytest.raises(ValueError, match="float64"):
        kernel("forward", q, k, v, SUPPORTS["one token"], "exclude", 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("heads", "tokens", "batch"), [(12, 196, 8), (12, 1568, 2), (2, 18816, 1), (12, 7, 7000)])
def test_full_sizes_on_the_gpu(heads, tokens, batch, dtype, masking):
    (call,) = on_gpu()
    support, dtype = Support.fibottention(heads, tokens), getattr(torch, dtype)
    q, k, v, g = inputs(support, dtype, dim=64, batch=batch)
    found = results(call, q, k, v, g, support, masking)
    leaves = [x.cuda().double().requires_grad_() for x in (q, k, v)]
    out = gather.attend(*leaves, support, masking, 64**-0.5, 0.0)
    exact = out.detach(), *torch.autograd.grad((out * g.cuda()).sum(), leaves)
    tolerance = 2e-5 if dtype == torch.float32 else 3 * torch.finfo(dtype).eps
    for a, b in zip((found[0], *found[2:]), exact, strict=True):
        torch.testing.assert_close(a.double(), b.cpu(), atol=tolerance, rtol=tolerance)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1: nothing is compiled")
class TestCompiled:
    def test_the_cpu_is_rejected(self):
        from videofib.attention.kernels import triton as kernel

        q, k, v, g = inputs(SUPPORTS["modified"])
        with pytest.raises(ValueError, match="on cpu"):
            kernel.forward(q, k, v, SUPPORTS["modified"], "exclude", 1.0)
        with pytest.raises(ValueError, match="on cpu"):
            kernel.backward(g, q, k, v, q, q[..., 0], SUPPORTS["modified"], "exclude", 1.0)

    @pytest.mark.parametrize("name", ["_forward_kernel", "_backward_queries_kernel", "_backward_keys_kernel"])
    def test_every_block_size_compiles_for_hopper_without_spilling(self, name, monkeypatch, tmp_path):
        """Without a GPU: Triton ships ptxas, and cuobjdump, which reads the stack that spilled registers take."""
        from videofib.attention.kernels import triton as kernel

        try:
            cuobjdump = triton.knobs.nvidia.cuobjdump.path
        except (AttributeError, RuntimeError) as error:
            pytest.skip(f"this Triton ships no ptxas and cuobjdump: {error}")
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        for block, group, warps in kernel.CONFIGS:
            compiled = compile_for_hopper(getattr(kernel, name), warps, BLOCK=block, GROUP=group)
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(compiled.asm["cubin"])
                file.flush()
                usage = subprocess.run([cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True)
            assert re.search(r"STACK:0 .*LOCAL:0 ", usage.stdout), (block, group, warps, usage.stdout)


def compile_for_hopper(kernel, warps, **constants):
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants |= dict(ZERO_LOGIT=True, D=64, CHUNK=2048, INDEX=tl.int32, prefix=1)
    signature = dict.fromkeys(kernel.arg_names, "*bf16")
    signature |= dict.fromkeys(("lse", "delta", "masked", "masked_partial", "v_sum", "partial_lse"), "*fp32")
    signature |= dict.fromkeys(("steps", "pointer", "num_masked"), "*i32") | dict(scale="fp32", scale_log2="fp32")
    signature |= dict.fromkeys(
        ("batch", "heads", "patches", "size", "stride_b", "stride_h", "stride_t"), "i32"
    ) | dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name.startswith("stride")
    }
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
