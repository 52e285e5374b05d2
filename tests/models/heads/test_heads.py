"""Heads of every layout of tokens: their outputs, the model without them, their pairs and maps."""

import math

import pytest
import torch
from einops import rearrange

from videofib.mixers import MIXERS, LayerSpec
from videofib.models import TimeSformer
from videofib.models.heads import Ablated, HeadOutputs, MapDivergence, head_layers, pair_overlap, without_heads
from videofib.models.heads.maps import attention_rows, jensen_shannon

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3, drop_path_rate=0.0
)
JOINT = dict(attention_type="joint_space_time", joint_attention="fibottention")
SHUFFLED = {"fibottention": {"w_min": 2, "head_order": "per_layer"}}
MODELS = {
    "joint": JOINT,
    "joint, dense": dict(attention_type="joint_space_time", num_registers=1),
    "joint, mean": {**JOINT, "class_token": False, "pooling": "mean"},
    "joint, per layer": {**JOINT, "mixer_options": SHUFFLED, "depth": 3},
    "divided": dict(attention_type="divided_space_time", num_registers=2, space_attention="fibottention"),
    "space only": dict(attention_type="space_only", pooling="mean"),
    "xcit": dict(attention_type="joint_space_time", joint_attention="xcit", pooling="class_attention"),
}


@pytest.fixture(params=MODELS)
def model(request, randomize):
    return randomize(TimeSformer(**{**TINY, **MODELS[request.param]})).double().eval()


@pytest.fixture
def video():
    return torch.randn(2, 3, 4, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_without_a_head_is_with_zero_columns_of_the_projection(model, video):
    layers = head_layers(model)
    sets = [[(i, row)] for i, layer in enumerate(layers) for row in range(layer.num_heads)]
    sets += [[(i, 1) for i in range(len(layers))], []]
    found = Ablated(model, layers, sets)(video)
    assert found.shape == (2, len(sets), 5)
    for heads, logits in zip(sets, found.unbind(1), strict=True):
        kept = {i: layers[i].proj.weight.detach().clone() for i, _ in heads}
        with torch.no_grad():
            for i, row in heads:
                layers[i].proj.weight[:, layers[i].columns(row)] = 0
            expected = model(video)
            for i, weight in kept.items():
                layers[i].proj.weight.copy_(weight)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, -1], model(video), rtol=0, atol=0)
    assert not torch.equal(found[:, 0], found[:, -1])


def test_without_a_head_its_mixer_lacks_its_part_of_the_sum(model, video):
    """y less W[:, h] x_h: the linear formula."""
    layers = head_layers(model)
    layer, kept = layers[0], {}
    handles = [
        layer.proj.register_forward_hook(lambda proj, arguments, out: kept.update(x=arguments[0], y=out)),
    ]
    with torch.no_grad():
        model(video)
        full = dict(kept)
        with without_heads(layers, [(0, 2)]):
            model(video)
    handles[0].remove()
    columns = layer.columns(2)
    part = full["x"][..., columns] @ layer.proj.weight[:, columns].T
    torch.testing.assert_close(kept["y"], full["y"] - part, rtol=0, atol=1e-12)


@pytest.mark.parametrize("patches", [False, True])
def test_outputs_are_pooled_as_the_model_pools(model, video, patches):
    """Against each layer's inputs of ``proj``, pooled by hand."""
    layers, seen = head_layers(model), {}
    handles = [
        layer.proj.register_forward_pre_hook(lambda proj, x, name=layer.name: seen.update({name: x[0]}))
        for layer in layers
    ]
    with torch.no_grad():
        logits = model(video)
    for handle in handles:
        handle.remove()
    outputs = HeadOutputs(model, layers, patches=patches)
    features, found = outputs.split(outputs(video))
    torch.testing.assert_close(found, logits)
    for layer, own in zip(layers, features, strict=True):
        x = rearrange(seen[layer.name], "(b r) n c -> b r n c", b=2)
        if model.pooling == "class_token" and layer.axis != "time" and not patches:
            expected = x[:, :, 0].mean(1)
        else:
            expected = x[:, :, -math.prod(layer.grid) :].mean((1, 2))
        heads = expected.unflatten(-1, (layer.num_heads, -1))
        expected = torch.stack([heads[:, head] for head in layer.order], dim=1).flatten(1)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_rows_are_the_same_offsets_in_every_block(randomize):
    model = randomize(TimeSformer(**{**TINY, **MODELS["joint, per layer"]}))
    layers = head_layers(model)
    assert len({layer.offsets for layer in layers}) == 1
    assert len({layer.order for layer in layers}) > 1  # or the test shows nothing
    for layer in layers:
        support = layer.mixer.support_for(math.prod(layer.grid))
        assert [tuple(support.offsets[head]) for head in layer.order] == list(layer.offsets)
        assert [layer.columns(row).start for row in range(3)] == [8 * head for head in layer.order]
        assert layer.labels[0] == f"{layer.order[0] + 1}: {' '.join(map(str, layer.offsets[0]))}"


def test_layers_of_divided_attention(randomize):
    model = TimeSformer(**{**TINY, **MODELS["divided"]})
    assert [(layer.name, layer.axis, layer.grid) for layer in head_layers(model)] == [
        ("0.temporal_attn", "time", (4, 1, 1)),
        ("0.attn", "space", (1, 2, 3)),
        ("1.temporal_attn", "time", (4, 1, 1)),
        ("1.attn", "space", (1, 2, 3)),
    ]


def test_blocks_without_heads_are_left_out_and_models_without_any_are_refused():
    mixed = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=["none", "dense"])
    assert [layer.name for layer in head_layers(mixed)] == ["1.attn"]
    for name, mixer in (("tost", "TokenStatistics"), ("afno", "AFNO")):
        other = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=name, pooling="mean")
        with pytest.raises(ValueError, match=f"no block has attention heads .* its mixers are {mixer}"):
            head_layers(other)
    with pytest.raises(ValueError, match="heads are those of a TimeSformer, got Linear"):
        head_layers(torch.nn.Linear(2, 2))


def _layer(name):
    spec = LayerSpec(24, 4, 0 if name in ("lit", "semanir") else 1, (4, 4, 4))
    return MIXERS[name].build(spec)


@pytest.mark.parametrize("name", sorted(set(MIXERS) - {"none"}))
def test_inputs_of_the_projection_are_heads_side_by_side(name):
    """A change of one head's values changes its columns alone, for every mixer that is taken to have heads."""
    from videofib.models.heads.layers import _has_heads

    try:
        mixer = _layer(name).double().eval()
    except ValueError as error:
        pytest.skip(str(error))
    if not _has_heads(mixer):
        assert name in {"afno", "axial_time", "bixt", "fcvit", "rsa", "tost"}
        return
    values = getattr(mixer, "qkv", None)
    if not isinstance(values, torch.nn.Linear) or values.out_features != 3 * mixer.proj.in_features:
        pytest.skip("its values are not a third of qkv")
    torch.manual_seed(0)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen = []
    mixer.proj.register_forward_pre_hook(lambda proj, x: seen.append(x[0]))
    x = torch.randn(2, 64 + getattr(mixer, "num_prefix_tokens", 0), 24, dtype=torch.float64)
    dim = mixer.proj.in_features // mixer.num_heads
    with torch.no_grad():
        mixer(x, (4, 4, 4), None)
        values.weight[2 * mixer.proj.in_features + dim : 2 * mixer.proj.in_features + 2 * dim] *= -1.5
        mixer(x, (4, 4, 4), None)
    changed = ((seen[0] - seen[1]).abs() > 1e-12).flatten(0, 1).any(0)
    assert changed.nonzero().flatten().tolist() == list(range(dim, 2 * dim))


def test_pairs_of_supports():
    """Fibottention's heads share no offset; heads of ``shared`` have all in common; and by hand for two offsets."""
    fib, shared, dense = (
        TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=name)
        for name in ("fibottention", "shared", "dense")
    )
    torch.testing.assert_close(pair_overlap(head_layers(fib)[0]), torch.eye(3, dtype=torch.float64))
    for other in (shared, dense):
        assert (pair_overlap(head_layers(other)[0]) == 1).all()
    dilated = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention="dilated")
    layer = head_layers(dilated)[0]
    masks = layer.mixer.support_for(24).to_mask()[:, 1:, 1:]
    expected = [[((a & b).sum() / (a | b).sum()).item() for b in masks] for a in masks]
    torch.testing.assert_close(pair_overlap(layer), torch.tensor(expected).double(), rtol=0, atol=1e-6)
    assert 0 < pair_overlap(layer)[0, 1] < 1


def test_pairs_of_patterns_and_of_mixers_without_fixed_pairs():
    random = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention="random")
    layer = head_layers(random)[0]
    masks = layer.mixer.pattern_for(layer.grid).to_mask()[:, 1:, 1:]
    expected = [[((a & b).sum() / (a | b).sum()).item() for b in masks] for a in masks]
    torch.testing.assert_close(pair_overlap(layer), torch.tensor(expected).double(), rtol=0, atol=1e-6)
    performer = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention="performer", pooling="mean")
    assert pair_overlap(head_layers(performer)[0]) is None


def test_jensen_shannon_by_hand():
    rows = torch.tensor([[[[1.0, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0]]]])
    quarter = -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25) - 0.5  # of (1, 0) and (1/2, 1/2)
    expected = torch.tensor(
        [[0, 0, 1, quarter], [0, 0, 1, quarter], [1, 1, 0, 0.5], [quarter, quarter, 0.5, 0]], dtype=torch.float64
    )
    torch.testing.assert_close(jensen_shannon(rows), expected, rtol=0, atol=1e-12)


def test_attention_rows_are_those_of_the_softmax(randomize):
    model = randomize(TimeSformer(**{**TINY, **JOINT})).double().eval()
    mixer, x = model.blocks[0].attn, torch.randn(2, 25, 24, dtype=torch.float64)
    q, k, _ = rearrange(mixer.qkv(x), "b n (three h d) -> three b h n d", three=3, h=3)
    logits = (q @ k.mT * 8**-0.5).masked_fill(~mixer.support_for(24).to_mask(), -torch.inf)
    found = attention_rows(mixer, x, [0, 7, 24])
    torch.testing.assert_close(found, logits.softmax(-1)[:, :, [0, 7, 24]].transpose(1, 2), rtol=0, atol=1e-12)


def test_maps_of_equal_heads_do_not_diverge(randomize, video):
    model = randomize(TimeSformer(**TINY, attention_type="joint_space_time")).double().eval()
    with torch.no_grad():
        for part in (model.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.bias):
            heads = part.unflatten(0, (3, 3, 8))
            heads[:2, 1] = heads[:2, 0]  # queries and keys of the first two heads
    found = MapDivergence(model, head_layers(model))(video)
    assert found.shape == (2, 2, 3, 3)
    assert found[:, 1, 0, 1].abs().max() < 1e-9
    assert (found[:, 1, 0, 2] > 1e-5).all()
    assert (found[:, 0, 0, 1] > 1e-5).all()
    torch.testing.assert_close(found, found.mT)


def test_maps_are_in_the_order_of_offsets(randomize, video):
    model = randomize(TimeSformer(**{**TINY, **MODELS["joint, per layer"]})).double().eval()
    layers, inputs = head_layers(model), []
    handles = [
        layer.mixer.register_forward_pre_hook(lambda mixer, arguments: inputs.append(arguments[0])) for layer in layers
    ]
    found = MapDivergence(model, layers)(video[:1])
    for handle in handles:
        handle.remove()
    queries = [0, *(1 + i * 24 // 16 for i in range(16))]
    for layer, x, own in zip(layers, inputs[: len(layers)], found[0], strict=True):
        expected = jensen_shannon(attention_rows(layer.mixer, x, queries))
        torch.testing.assert_close(own, expected[list(layer.order)][:, list(layer.order)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["divided", "space only", "xcit"])
def test_maps_of_other_layouts(name, randomize, video):
    model = randomize(TimeSformer(**{**TINY, **MODELS[name]})).double().eval()
    found = MapDivergence(model, head_layers(model))(video)
    assert found.isnan().all() if name == "xcit" else ((found >= 0) & (found <= 1)).all()
