"""Every mixer of the table, in whole models: they learn, compile, are recomputed, and compute in 16 bits."""

import copy

import pytest
import torch

from videofib.mixers import MIXERS
from videofib.mixers.table import NONE
from videofib.models import TimeSformer
from videofib.models.exports.program import plain_copy, trace
from videofib.models.profiling import cost, forward_multiply_adds

SMALL = dict(img_size=(32, 48), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=4,
             drop_path_rate=0.0)  # fmt: skip
CLIP = (2, 3, 4, 32, 48)
FORMS = ["joint_space_time", "divided_space_time"]


NOT_OVER_TIME = ("bixt", "shunted")  # it has no prefix tokens, and no rows and columns that could be reduced


def build(name, attention_type, **changes):
    """A model of one mixer, with dense attention over time where the mixer does not serve that."""
    names = [name] * SMALL["depth"] if name != NONE else [NONE, "dense", NONE]
    time = "dense" if name in NOT_OVER_TIME else names
    kinds = dict(joint_attention=names, space_attention=names, time_attention=time)
    pooling = "class_token" if "class_token" in MIXERS[name].serves else "mean"
    return TimeSformer(**SMALL, **kinds, attention_type=attention_type, pooling=pooling, **changes)


@pytest.fixture(params=FORMS)
def attention_type(request):
    return request.param


@pytest.fixture(params=[*MIXERS])
def name(request):
    return request.param


def gradients(model, video):
    model.zero_grad()
    model(video).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_parameter_has_a_gradient(name, attention_type, randomize):
    # where one had none, training by several processes would stop
    model = randomize(build(name, attention_type)).train()
    found = gradients(model, torch.randn(CLIP))
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("recompute", ["block", "cheap"])
def test_recomputation_changes_nothing(name, attention_type, recompute, randomize):
    model = randomize(build(name, attention_type)).train()
    again = copy.deepcopy(model)
    again.blocks.recompute = recompute
    video = torch.randn(CLIP)
    expected, found = gradients(model, video), gradients(again, video)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, atol=1e-6, rtol=1e-5)


def test_compilation_changes_nothing(name, attention_type, randomize):
    model = randomize(build(name, attention_type)).train()
    video = torch.randn(CLIP)
    expected = gradients(model, video)
    torch._dynamo.reset()  # it counts models of one class as the same one, compiled too often
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    found = gradients(compiled, video)
    for parameter, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(found[f"_orig_mod.{parameter}"] / scale, gradient / scale, atol=1e-4, rtol=1e-4)


def test_computing_in_16_bits_stays_near(name, attention_type, randomize):
    model, video = build(name, attention_type).eval(), torch.randn(CLIP)
    with torch.no_grad():
        expected = model.forward_features(video)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.forward_features(video)
    assert found.isfinite().all()
    assert (found - expected).abs().max() < 0.15 * expected.abs().max()
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(video).square().sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_model_made_without_values_becomes_the_same(name, attention_type):
    torch.manual_seed(3)
    expected = build(name, attention_type)
    with torch.device("meta"):
        model = build(name, attention_type)
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    build(name, attention_type).reset_parameters()
    model.reset_parameters()
    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key
        assert value.dtype == expected.state_dict()[key].dtype
        if value.is_floating_point() and value.numel() > 20 and expected.state_dict()[key].std() > 0:
            assert 0.3 < value.std() / expected.state_dict()[key].std() < 3, key


def test_names_of_what_does_not_decay_exist(name, attention_type):
    model = build(name, attention_type)
    parameters = dict(model.named_parameters())
    own = model.no_weight_decay() - {"cls_token", "reg_token", "pos_embed", "time_embed"}
    assert own <= parameters.keys()
    temperatures = {key for key in parameters if key.endswith("temperature")}
    assert temperatures <= own | {key for key in temperatures if parameters[key].ndim <= 1}


def test_outputs_depend_on_nothing_but_the_clip(name, attention_type, randomize):
    model = randomize(build(name, attention_type)).eval()
    video = torch.randn(CLIP)
    with torch.no_grad():
        together, alone = model(video), model(video[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_profiles_agree_with_the_formula(name, attention_type):
    model = build(name, attention_type).eval()
    grid = model.grid
    grids = {"attn": grid, "temporal_attn": (grid[0], 1, 1)}
    sequences = {"attn": 1, "temporal_attn": grid[1] * grid[2]}
    if attention_type == "divided_space_time":
        grids["attn"], sequences["attn"] = (1, *grid[1:]), grid[0]
    mixers = {key: mixer for key, mixer in model.blocks.mixers().items()}
    kinds = {"attn": "space" if attention_type == "divided_space_time" else "joint", "temporal_attn": "time"}
    total = 0
    for key, mixer in mixers.items():
        block, part = key.split(".")
        row = MIXERS[model.mixers.names[kinds[part]][int(block)]]
        total += sequences[part] * row.multiply_adds(mixer, grids[part])
    rest = forward_multiply_adds(build_without(model), CLIP[1:])
    assert forward_multiply_adds(model, CLIP[1:]) == rest + total
    counted = cost(model, CLIP[1:])
    assert 0.9 < counted.multiply_adds / (rest + total) < 1.15


@pytest.mark.slow
def test_exported_programs_compute_the_same(name, attention_type, randomize):
    model = plain_copy(randomize(build(name, attention_type)))
    exported = trace(model, CLIP[1:]).module()
    with torch.no_grad():
        for batch in (1, 3):
            video = torch.randn(batch, *CLIP[1:])
            torch.testing.assert_close(exported(video), model(video), atol=1e-4, rtol=1e-4)


def build_without(model):
    """The same model whose mixers return what they get."""
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        for key in block.mixers():
            setattr(block, key, Same())
    return plain


class Same(torch.nn.Module):
    def forward(self, x, grid, state=None):
        return x, state
