"""TimeSformer: published names, sizes and outputs; reach of Fibottention; resizing; errors."""

import copy
from collections import Counter

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videofib.attention import Support
from videofib.models import TimeSformer

TINY = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3)
TYPES = ["divided_space_time", "joint_space_time", "space_only"]


def published_names(attention_type, depth):
    """Parameter names of the published TimeSformer."""
    names = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    layers = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    if attention_type != "space_only":
        names.add("time_embed")
    if attention_type == "divided_space_time":
        layers += ["temporal_norm1", "temporal_attn.qkv", "temporal_attn.proj", "temporal_fc"]
    modules = ["norm", "head", *(f"blocks.{i}.{layer}" for i in range(depth) for layer in layers)]
    return names | {f"{m}.{kind}" for m in modules for kind in ("weight", "bias")}


@pytest.mark.parametrize("attention_type", TYPES)
def test_state_dict_has_the_published_names(attention_type):
    model = TimeSformer(**TINY, attention_type=attention_type)
    assert set(model.state_dict()) == published_names(attention_type, depth=3)


@pytest.mark.parametrize(("attention_type", "millions"), [("divided_space_time", 121.4), ("joint_space_time", 85.9)])
def test_base_model_has_the_published_number_of_parameters(attention_type, millions):
    with torch.device("meta"):
        model = TimeSformer(num_classes=174, attention_type=attention_type)  # Something-Something v2
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("attention_type", TYPES)
def test_starts_as_published(attention_type):
    torch.manual_seed(0)
    model = TimeSformer(**TINY, attention_type=attention_type)
    std = 0.02 * (768 / 24) ** 0.5  # 0.02 at the published width
    assert model.pos_embed.detach().std().item() == pytest.approx(std, rel=0.15)
    assert model.blocks[0].attn.qkv.weight.detach().std().item() == pytest.approx(std, rel=0.1)
    assert model.cls_token.any()
    if attention_type != "space_only":
        assert not model.time_embed.any()
    if attention_type == "divided_space_time":
        # the published loop over blocks spends its "not the first" on the list that holds them
        assert not any(block.temporal_fc.weight.any() for block in model.blocks)


@pytest.mark.parametrize("attention_type", TYPES)
def test_positions_start_as_large_as_asked(attention_type):
    torch.manual_seed(0)
    model = TimeSformer(**TINY, attention_type=attention_type, position_init_std=0.5)
    positions = [p for name, p in model.named_parameters() if name in ("pos_embed", "time_embed")]
    assert len(positions) == (1 if attention_type == "space_only" else 2)
    for p in positions:
        assert p.detach().std().item() == pytest.approx(0.5, rel=0.25)
    assert model.cls_token.detach().std().item() < 0.3


def test_fibottention_reaches_joint_tokens_of_any_number(randomize):
    model = randomize(TimeSformer(**TINY, attention_type="joint_space_time", joint_attention="fibottention"))
    for shape, tokens in [((4, 32, 32), 64), ((7, 24, 40), 105)]:
        assert model(torch.randn(1, 3, *shape)).shape == (1, 5)
        assert model.blocks[0].attn.support_for(tokens) == Support.fibottention(3, tokens)


@pytest.mark.parametrize("token_order", ["hwt", "thw"])
def test_a_joint_block_moves_information_along_the_support_and_nowhere_else(token_order, randomize):
    model = TimeSformer(
        **{**TINY, "depth": 1},
        attention_type="joint_space_time",
        joint_attention="fibottention",
        token_order=token_order,
    )
    block = randomize(model).blocks[0]
    x = torch.randn(1, 65, 24, requires_grad=True)
    allowed = Support.fibottention(3, 64).to_mask().any(0) | torch.eye(65, dtype=torch.bool)
    for query in (0, 1, 30, 64):
        (gradient,) = torch.autograd.grad(block(x, (4, 4, 4), {})[0][0, query].sum(), x)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, allowed[query])


def test_divided_fibottention_differs_from_dense_only_through_its_support(randomize):
    dense = randomize(TimeSformer(**TINY))
    sparse = TimeSformer(**TINY, space_attention="fibottention", time_attention="fibottention").eval()
    sparse.load_state_dict(dense.state_dict())
    video = torch.randn(1, 3, 4, 32, 32)
    assert not torch.allclose(sparse(video), dense(video), atol=1e-4)
    for block in sparse.blocks:  # the same weights with every pair allowed
        block.attn.support = Support.dense(3, 16)
        block.temporal_attn.support = Support.dense(3, 4, num_prefix_tokens=0)
    torch.testing.assert_close(sparse(video), dense(video), atol=1e-5, rtol=1e-5)


def test_per_layer_head_order_reaches_the_blocks():
    model = TimeSformer(
        **TINY,
        attention_type="joint_space_time",
        joint_attention="fibottention",
        mixer_options={"fibottention": {"head_order": "per_layer"}},
    )
    for layer, block in enumerate(model.blocks):
        assert block.attn.support_for(64) == Support.fibottention(3, 64, head_order="per_layer", layer_index=layer)


def test_rectangular_frames_resize_the_position_embedding_in_two_dimensions(randomize):
    model = randomize(TimeSformer(**{**TINY, "depth": 1}, attention_type="space_only"))
    with torch.no_grad():  # a position embedding that differs between rows, not between columns
        model.pos_embed[0, 1:] = torch.arange(4.0).repeat_interleave(4)[:, None]
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.patch_embed.proj.weight.data.zero_()
    model.patch_embed.proj.bias.data.zero_()
    model(torch.zeros(1, 3, 1, 64, 16))  # 8 x 2 patches
    assert torch.equal(seen[0][0, 1:, 0], torch.arange(4.0).repeat_interleave(4))


class Storages(TorchDispatchMode):
    """Remembers the memory of all tensors that are made within it, and what made them."""

    def __init__(self):
        super().__init__()
        self.made, self.calls = {}, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.calls[str(function.overloadpacket)] += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def alive(self):
        """Bytes of those that something still holds."""
        return sum(size for reference, size in self.made.values() if not reference.expired())


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("kind", ["dense", "fibottention"])
def test_gradient_checkpointing_changes_nothing_but_memory(attention_type, kind):
    mixers = dict.fromkeys(["space_attention", "joint_attention", "time_attention"], kind)
    model = TimeSformer(**TINY, attention_type=attention_type, **mixers, drop_path_rate=0.5, drop_rate=0.3).train()
    video = torch.randn(2, 3, 4, 32, 32)
    kept, gradients, again = [], [], []
    for recompute, every in [("", 1), ("cheap", 2), ("cheap", 1), ("block", 1)]:
        m = copy.deepcopy(model)
        m.blocks.recompute, m.blocks.recompute_every = recompute, every
        torch.manual_seed(0)
        with Storages() as forward:
            loss = m(video).square().sum()
        kept.append(forward.alive())
        with Storages() as backward:
            loss.backward()
        costly = ("aten.addmm", "videofib.sparse_attention", "aten._scaled_dot_product_flash_attention_for_cpu")
        again.append((sum(backward.calls[name] for name in costly), backward.calls["aten.native_layer_norm"]))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in m.parameters()]))
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 4
    assert [bool(products) for products, _ in again] == [False, False, False, True]
    assert [norms > 0 for _, norms in again] == [False, True, True, True]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (dict(img_size=33), "33x33"),
        (dict(embed_dim=25), "dim=25, num_heads=3"),
        (dict(attention_type="axial"), "'axial'"),
        (dict(recompute="all"), "'all'"),
        (dict(recompute_every=0), "recompute_every=0"),
        (dict(joint_attention="sparse", attention_type="joint_space_time"), "'sparse'"),
        (dict(token_order="wht"), "'wht'"),
        (dict(position_init_std=-0.5), "position_init_std=-0.5"),
        (dict(mixer_options={"fibottention": {"wmin": 3}}), r"'wmin' \(got wmin=3\); did you mean 'w_min'\?"),
        (dict(mixer_options={"dense": {"w_min": 3}}), r"mixer 'dense' has no option 'w_min' .*its options: none"),
        (dict(mixer_options={"fibotention": {}}), "'fibotention'; did you mean 'fibottention'"),
        (dict(time_attention="fibotention"), "unknown time_attention 'fibotention'; did you mean 'fibottention'"),
        (dict(space_attention="fibottention", mixer_options={"fibottention": {"masking": "multiply"}}), "'multiply'"),
        (dict(time_attention="fibottention", mixer_options={"fibottention": {"variant": "golden"}}), "'golden'"),
    ],
)
def test_bad_arguments_are_shown(change, shown):
    with pytest.raises(ValueError, match=shown):
        TimeSformer(**{**TINY, **change})


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 4, 32, 32), (1, 3, 4, 30, 32)])
def test_bad_inputs_are_shown(shape):
    with pytest.raises(ValueError, match=r"shape|30x32"):
        TimeSformer(**TINY)(torch.zeros(shape))
