"""Shared key sets against loops over sorted lists, and how they go from block to block."""

import copy
import dataclasses

import pytest
import torch
from einops import rearrange

from videofib.mixers import LayerSpec
from videofib.mixers.semanir import STATE, KeySemantics
from videofib.models import TimeSformer

LAYER = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=2, grid=(3, 2, 4))
TINY = dict(img_size=16, patch_size=4, num_classes=3, num_frames=2, embed_dim=8, depth=5, num_heads=2, drop_path_rate=0)


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    module = KeySemantics(layer, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def tokens(prefix=2, batch=2):
    return torch.randn(batch, prefix + 24, 6, dtype=torch.double, requires_grad=True)


def most_similar(patches, k, similarity):
    """For each patch of one sequence the set of its k most similar ones, by sorting."""
    patches = patches.detach()
    lengths = [float(row.norm()) if similarity == "cosine" else 1.0 for row in patches]
    return [
        set(sorted(range(len(patches)), key=lambda j, row=row: -float(row @ patches[j]) / lengths[j])[:k])
        for row in patches
    ]


def by_loops(module, x, sets, prefix):
    """Queries one by one, with a softmax over the keys that they see; ``sets`` of each sample."""
    q, k, v = rearrange(module.qkv(x), "b n (three h d) -> three b h n d", three=3, h=module.num_heads)
    out = torch.zeros_like(q)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            keys = range(x.shape[1]) if i < prefix else [*range(prefix), *(prefix + j for j in sets[b][i - prefix])]
            for h in range(module.num_heads):
                weights = torch.softmax(k[b, h, list(keys)] @ q[b, h, i] / q.shape[-1] ** 0.5, 0)
                out[b, h, i] = weights @ v[b, h, list(keys)]
    return module.proj(rearrange(out, "b h n d -> b n (h d)"))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize(("k", "prefix", "bias"), [(1, 2, True), (5, 0, False), (7, 1, True), (23, 2, True)])
def test_patches_see_the_prefix_and_those_that_were_similar_when_the_stage_began(k, prefix, bias, similarity):
    layer = dataclasses.replace(LAYER, num_prefix_tokens=prefix, qkv_bias=bias)
    first = built(layer, k=k, similarity=similarity)
    later = built(dataclasses.replace(layer, index=5), k=k, similarity=similarity)
    x, other = tokens(prefix), tokens(prefix)
    sets = [most_similar(sample[prefix:], k, similarity) for sample in x]
    y, state = first(x, layer.grid, {"of another mixer": "kept"})
    z, handed_on = later(other, layer.grid, state)
    assert state["of another mixer"] == "kept"
    assert [[set(row) for row in sample] for sample in state[STATE].tolist()] == sets
    assert handed_on is state
    for module, inputs, found in ((first, x, y), (later, other, z)):
        expected = by_loops(module, inputs, sets, prefix)
        torch.testing.assert_close(found, expected)
        weight, leaves = torch.randn_like(found), [inputs, *module.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad((found * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves)
        )


def test_half_precision_does_not_choose():
    module = built(k=1).float()
    patches = torch.ones(1, 24, 6)
    patches[0, :, 0] += 0.001 * torch.arange(24)  # 16 bits of brain float cannot tell neighbours apart
    with torch.autocast("cpu", torch.bfloat16):
        keys = module.key_sets(patches)
    assert (keys == 23).all()
    patches = torch.ones(1, 24, 6, dtype=torch.bfloat16)
    patches[0, 5, 0] += 2**-7  # a sum of six of 6.0078, which is 6 in this precision
    assert (module.key_sets(patches) == 5).all()


def test_only_a_block_that_makes_key_sets_pays_for_them():
    later = dataclasses.replace(LAYER, index=1)
    dense, *others = (
        built(layer, k=k).multiply_adds(LAYER.grid) for layer, k in [(later, 24), (LAYER, 24), (later, 5), (LAYER, 5)]
    )
    assert others == [dense, dense, dense + 24 * 24 * 6]


@pytest.mark.parametrize(("patches", "k"), [(8, 4), (36, 18), (196, 49), (1, 1)])
def test_by_default_key_sets_have_half_of_few_patches(patches, k):
    layer = dataclasses.replace(LAYER, grid=(patches, 1, 1), num_prefix_tokens=0)
    default, given = built(layer), built(layer, k=k)
    x = torch.randn(2, patches, 6, dtype=torch.double)
    assert torch.equal(default(x, layer.grid, None)[0], given(x, layer.grid, None)[0])


def test_all_patches_as_keys_are_dense_attention():
    x, state = tokens(), {"of another mixer": "kept"}
    everything = [[set(range(24))] * 24] * 2
    for k in (24, 99):
        module = built(k=k)
        y, handed_on = module(x, LAYER.grid, state)
        torch.testing.assert_close(y, by_loops(module, x, everything, prefix=2))
        assert handed_on is state


def test_patches_have_no_order():
    module, x = built(k=5), tokens()
    order = torch.cat([torch.arange(2), 2 + torch.randperm(24)])
    torch.testing.assert_close(module(x[:, order], LAYER.grid)[0], module(x, LAYER.grid)[0][:, order])


def shapes_of_new_key_sets(**settings):
    """For each block of a model the shape of the key sets that it made in a forward pass, or None."""
    model, shapes = TimeSformer(**TINY, mixer_options={"semanir": {"k": 5, "stage": 2}}, **settings), []

    def record(mixer, inputs, outputs):
        received, returned = (inputs[2] or {}).get(STATE), outputs[1][STATE]
        shapes.append(None if returned is received else tuple(returned.shape))

    for block in model.blocks:
        block.attn.register_forward_hook(record)
    model(torch.randn(1, 3, 2, 16, 16))
    return shapes


def test_key_sets_are_made_where_a_stage_begins():
    joint = shapes_of_new_key_sets(attention_type="joint_space_time", joint_attention="semanir")
    assert joint == [(1, 32, 5), None, (1, 32, 5), None, (1, 32, 5)]
    frames = shapes_of_new_key_sets(space_attention="semanir")
    assert frames == [(2, 16, 5), None, (2, 16, 5), None, (2, 16, 5)]


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_recomputation_and_compilation_use_the_same_key_sets(attention_type):
    torch.manual_seed(0)
    model = TimeSformer(
        **TINY | {"depth": 2}, attention_type=attention_type, space_attention="semanir", joint_attention="semanir",
        qk_norm=True, mixer_options={"semanir": {"k": 5, "similarity": "cosine"}},
    ).train()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    recomputing = copy.deepcopy(model)
    recomputing.blocks.recompute = "block"
    compiled = copy.deepcopy(model)
    video = torch.randn(2, 3, 2, 16, 16)
    for variant in (model, recomputing, torch.compile(compiled, backend="aot_eager", fullgraph=True)):
        variant(video).square().sum().backward()
    for name, parameter in model.named_parameters():
        for variant in (recomputing, compiled):
            torch.testing.assert_close(variant.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("state", [None, {}, {STATE: torch.zeros(2, 23, 5, dtype=torch.long)}])
def test_a_block_without_key_sets_is_refused(state):
    later = built(dataclasses.replace(LAYER, index=1), k=5)
    with pytest.raises(
        ValueError, match=r"needs those of \(batch, tokens\) = \(2, 24\), got (none|those of \(2, 23\))"
    ):
        later(tokens(), LAYER.grid, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(k=0), "k=0, stage=6"),
        (dict(stage=0), "k=None, stage=0"),
        (dict(similarity="cosin"), "did you mean 'cosine'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)
