"""The operator as torch's own machinery sees it: checked, compiled, exported, checkpointed, counted."""

import copy
import warnings

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from videofib.attention import SelfAttention, Support, op, sparse_attention
from videofib.models import TimeSformer

SUPPORTS = {
    "one prefix token": Support.fibottention(3, 33),
    "no prefix token": Support.fibottention(2, 7, num_prefix_tokens=0),
    "empty head": Support(((), (1, 20)), 9, 5),
}


def qkv(support, dtype=torch.float32, dim=8, batch=2):
    total = support.num_prefix_tokens + support.num_tokens
    packed = torch.randn(
        batch, total, 3, support.num_heads, dim, dtype=dtype, generator=torch.Generator().manual_seed(0)
    )
    return [x.detach().requires_grad_() for x in packed.permute(2, 0, 3, 1, 4)]


@pytest.mark.parametrize(
    ("name", "dtype", "masking"),
    [
        (name, dtype, ("exclude", "zero_logit")[(i + j) % 2])  # every pair of two parameters
        for i, name in enumerate(SUPPORTS)
        for j, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16))
    ],
)
def test_torch_finds_nothing_wrong_with_it(name, dtype, masking):
    """Schema, registration of the gradient, shapes and strides as the compiler is given them, dynamic shapes."""
    inputs, options = qkv(SUPPORTS[name], dtype), (SUPPORTS[name].code, masking, 0.3)
    torch.library.opcheck(op.forward, (*inputs, *options))
    with torch.no_grad():
        saved = (*inputs, *op.forward(*inputs, *options))
    saved = [x.detach() for x in (saved[3], *saved)]
    torch.library.opcheck(op.backward, (*saved, *options))


def model(attention_type="joint_space_time", **options):
    torch.manual_seed(0)
    kinds = dict.fromkeys(("joint_attention", "space_attention", "time_attention"), "fibottention")
    sizes = dict(img_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    return TimeSformer(attention_type=attention_type, drop_path_rate=0.0, **sizes, **(kinds | options))


def results(model, x):
    """Logits and the gradients of all parameters."""
    logits = model(x)
    weights = [p for _, p in sorted(model.named_parameters()) if p.requires_grad]
    return logits, *torch.autograd.grad(logits.square().sum(), weights)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(attention_type="divided_space_time"),
        dict(mixer_options={"fibottention": dict(head_order="per_layer", variant="modified")}),
        dict(joint_attention="dense"),
        dict(gradient_checkpointing=True),
        dict(attention_backend="gather"),
        dict(attention_backend="gather", attention_type="divided_space_time"),
        dict(attention_backend="gather", mixer_options={"fibottention": dict(masking="zero_logit")}),
        dict(attention_backend="gather", class_token=False, pooling="mean"),
        dict(attention_backend="gather", gradient_checkpointing=True, recompute="cheap"),
        dict(attention_backend="reference"),
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "joint",
)
def test_a_model_compiles_without_a_graph_break(options):
    torch._dynamo.reset()
    x = torch.randn(2, 3, 4, 32, 32)
    compiled = torch.compile(model(**options).train(), fullgraph=True, backend="aot_eager")  # nothing run before it
    same(results(compiled, x), results(model(**options).train(), x))


def test_dropout_compiles_without_a_graph_break():
    """Dropped weights of one seed are those of the same seed, in the forward pass and in the backward pass."""
    torch._dynamo.reset()
    x, found = torch.randn(2, 3, 4, 32, 32), []
    compiled = torch.compile(model(attn_drop_rate=0.3).train(), fullgraph=True, backend="aot_eager")
    for call in (compiled, model(attn_drop_rate=0.3).train()):
        torch.manual_seed(1)
        found.append(results(call, x))
    same(*found)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_a_model_of_plain_torch_is_exported_with_gradients(backend, strict):
    """With training graphs, too: what was exported differentiates as the model does."""
    x, original = torch.randn(2, 3, 4, 32, 32), model(attention_backend=backend)
    exported = torch.export.export(original, (x,), strict=strict).module()
    same(results(exported, x), results(original, x))


@pytest.mark.parametrize("attention_type", ["joint_space_time", "divided_space_time"])
def test_a_model_is_exported(attention_type, tmp_path):
    x, original = torch.randn(2, 3, 4, 32, 32), model(attention_type).eval()
    torch.export.save(torch.export.export(original, (x,)), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    assert any("videofib.sparse_attention" in str(node.target) for node in loaded.graph.nodes)
    torch.testing.assert_close(loaded.module()(x), original(x))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(use_reentrant):
    support = SUPPORTS["one prefix token"]
    layer = SelfAttention(24, 3, support)
    x = torch.randn(2, 34, 24, requires_grad=True)
    plain = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    x.grad = None
    checkpoint(layer, x, use_reentrant=use_reentrant).square().sum().backward()
    same([x.grad, *(p.grad for p in layer.parameters())], plain)


def test_autocast_works_as_for_torch_attention():
    support = SUPPORTS["one prefix token"]
    inputs = qkv(support)
    expected = torch.autograd.grad(sparse_attention(*inputs, support, backend="reference").sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_attention(*inputs, support)
        assert out.dtype == torch.nn.functional.scaled_dot_product_attention(*inputs).dtype == torch.bfloat16
        assert sparse_attention(*(x.double() for x in inputs), support).dtype == torch.float64
        assert model()(torch.randn(1, 3, 4, 32, 32)).dtype == torch.bfloat16
    for a, b in zip(torch.autograd.grad(out.sum(), inputs), expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_vmap_of_the_operator_itself_is_rejected_with_an_alternative():
    support = SUPPORTS["one prefix token"]
    q, k, v = (x.detach() for x in qkv(support))
    with pytest.raises(NotImplementedError, match="call sparse_attention, which has one"):
        torch.vmap(lambda a: op.forward(a, k, v, support.code, "exclude", 0.3))(q[None])


def test_second_derivatives_are_rejected_with_an_alternative():
    support = SUPPORTS["one prefix token"]
    inputs = qkv(support)
    (gradient,) = torch.autograd.grad(sparse_attention(*inputs, support).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.sum().backward()


def test_a_gradient_for_some_inputs_only():
    support = SUPPORTS["one prefix token"]
    q, k, v = qkv(support)
    expected = torch.autograd.grad(sparse_attention(q, k, v, support).sum(), (q, k, v))
    (found,) = torch.autograd.grad(sparse_attention(q.detach(), k, v.detach(), support).sum(), k)
    torch.testing.assert_close(found, expected[1])


def test_flops_are_those_of_the_true_pairs():
    support = SUPPORTS["empty head"]
    inputs = qkv(support)
    pairs = int(support.to_mask().sum())
    products = 2 * 8 * pairs  # batch 2, head_dim 8: multiply-adds of one product for all pairs
    with FlopCounterMode(display=False) as forward:
        out = sparse_attention(*inputs, support)
    assert forward.get_total_flops() == 2 * 2 * products  # q · k and weights · v, each operation counted
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert backward.get_total_flops() == 5 * 2 * products

    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return sparse_attention(q, k, v, support)

    counted = FlopCountAnalysis(Layer(), tuple(inputs)).set_op_handle(op.NAME, op.fvcore_flops)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        assert counted.total() == 2 * products  # multiply-adds counted once
        assert not counted.unsupported_ops()


def test_a_copied_and_a_saved_model_work(tmp_path):
    original, x = model().eval(), torch.randn(1, 3, 4, 32, 32)
    expected = original(x)
    torch.testing.assert_close(copy.deepcopy(original)(x), expected)
    torch.save(original, tmp_path / "model.pt")
    torch.testing.assert_close(torch.load(tmp_path / "model.pt", weights_only=False)(x), expected)


@pytest.mark.parametrize("support", [*SUPPORTS.values(), Support.dense(4, 1000), Support(((),), 3, 0)])
def test_a_support_is_written_and_read(support):
    read = Support.from_code(support.code)
    assert read == support
    assert read.is_dense == support.is_dense
    assert len(support.code) < 100


def test_text_that_is_not_a_support_is_rejected():
    with pytest.raises(ValueError, match="not the code of a support: 'x'"):
        Support.from_code("x")
