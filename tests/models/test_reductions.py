"""Models with fewer tokens: names, costs, modes, what is refused, and what blocks return."""

import copy
import math

import pytest
import torch

from videofib.checkpoint.file import CheckpointError
from videofib.mixers import MIXERS, LayerSpec
from videofib.models import TimeSformer
from videofib.models.explain.gradcam import grad_cam
from videofib.models.explain.rollout import attention_rollout
from videofib.models.merging import MergingAttention
from videofib.models.pretrained.export import holds_dense, save_hugging_face
from videofib.models.profiling import cost, forward_multiply_adds
from videofib.models.reduction import PLACELESS_MIXERS
from videofib.run.feature_model import FeatureModel

TYPES = ["joint_space_time", "divided_space_time", "space_only"]
SIZES = dict(img_size=(32, 64), patch_size=8, num_classes=5, num_frames=3, embed_dim=16, depth=3, num_heads=2)
WAYS = {
    "slimming": {"slimming": {"after": [0, 1], "ratio": 0.4}},
    "slimming per frame": {"slimming": {"after": [1], "per_frame": True}},
    "deformable": {"deformable_merging": {"after": [0]}},
    "merging": {"merging": {"tokens": 5}},
}
VIDEO = torch.randn(2, 3, 3, 32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture(params=TYPES)
def attention_type(request):
    return request.param


def test_weights_of_blocks_keep_their_names(way, attention_type):
    plain = TimeSformer(**SIZES, attention_type=attention_type)
    reduced = TimeSformer(**SIZES, attention_type=attention_type, **way)
    others = set(reduced.state_dict()) - set(plain.state_dict())
    assert all(name.startswith("reductions.") for name in others)
    assert list(plain.state_dict()) == [name for name in reduced.state_dict() if name not in others]
    assert bool(others) == ("merging" not in way)
    for name in others:
        layer = reduced.layer_of(name)
        assert layer == 1 + int(name.split(".")[1])


def expected_multiply_adds(model):
    """By the formulas of the parts; without the first projection and the classifier, which do not change."""
    length, height, width = model.grid
    sequences = length if model.single_frames else 1
    grid, dim, prefix = ((1 if model.single_frames else length), height, width), model.norm.normalized_shape[0], 1
    total = 0
    for index, block in enumerate(model.blocks):
        t, h, w = grid
        tokens = math.prod(grid)
        if model.attention_type == "divided_space_time":
            total += t * block.attn.multiply_adds((1, h, w)) + h * w * block.temporal_attn.multiply_adds((t, 1, 1))
            total += tokens * dim**2
        else:
            total += block.attn.multiply_adds(grid)
        if isinstance(block.attn, MergingAttention):
            total += block.reduction.multiply_adds(grid)
            grid = block.reduction.grid_after(grid)
        total += 8 * (math.prod(grid) + prefix) * dim**2
        if str(index) in model.reductions:
            reduction = model.reductions[str(index)]
            total += reduction.multiply_adds(grid)
            grid = reduction.grid_after(grid)
    return sequences * total


def test_multiply_adds_are_those_of_the_formulas(way, attention_type):
    model = TimeSformer(**SIZES, attention_type=attention_type, **way).eval()
    outside = 3 * 4 * 8 * (3 * 8 * 8) * 16 + 16 * 5  # patches and classifier
    assert forward_multiply_adds(model, (3, 3, 32, 64)) == expected_multiply_adds(model) + outside
    counted = cost(model, (3, 3, 32, 64))
    products = sum(
        counted.by_operator.get(name, 0)
        for name in ("linear", "matmul", "conv", "scaled_dot_product_attention", "bmm", "einsum")
    )
    assert products == pytest.approx(expected_multiply_adds(model) + outside, rel=0.001)


@pytest.mark.parametrize("recompute", ["block", "cheap"])
def test_recomputed_blocks_have_the_same_gradients(way, attention_type, recompute):
    torch.manual_seed(0)
    model = TimeSformer(**SIZES, attention_type=attention_type, drop_path_rate=0.0, **way).train()
    again = TimeSformer(
        **SIZES,
        attention_type=attention_type,
        drop_path_rate=0.0,
        gradient_checkpointing=True,
        recompute=recompute,
        **way,
    ).train()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    for each in (model, again):
        each(VIDEO).square().sum().backward()
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    for one, other in zip(model.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(one, other)  # batch statistics are updated once


def test_a_model_on_the_meta_device_can_be_filled(way):
    with torch.device("meta"):
        model = TimeSformer(**SIZES, **way)
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    model.reset_parameters()
    torch.manual_seed(3)
    fresh = TimeSformer(**SIZES, **way)
    for index, module in model.reductions.items():
        if hasattr(module, "scale"):
            assert torch.equal(module.scale, fresh.reductions[index].scale)
        else:
            assert not module.dconv.conv_offset.weight.any()
    assert model.eval()(VIDEO).isfinite().all()


def test_it_works_in_16_bits(way, attention_type):
    torch.manual_seed(0)
    model = TimeSformer(**SIZES, attention_type=attention_type, **way).eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, losses = model(VIDEO, with_losses=True)
    assert losses == {}
    torch.testing.assert_close(logits.float(), model(VIDEO), rtol=0.1, atol=0.1)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(VIDEO).float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_an_empty_batch_and_other_clips_pass(way, attention_type):
    model = TimeSformer(**SIZES, attention_type=attention_type, **way).eval()
    assert model(VIDEO[:0]).shape == (0, 5)
    assert model(torch.randn(1, 3, 4, 64, 32)).shape == (1, 5)


def test_what_blocks_return(way, attention_type):
    model = TimeSformer(**SIZES, attention_type=attention_type, **way).eval()
    _, tokens = model.forward_intermediates(VIDEO, output_fmt="NLC")
    assert all(each.shape[::2] == (2, 16) for each in tokens)
    early = model.forward_intermediates(VIDEO, [1], output_fmt="NLC", stop_early=True, intermediates_only=True)
    assert torch.equal(early[0], tokens[1])
    placeless = (
        model.blocks.first_placeless()
        if model.blocks.first_placeless() is not None
        else model.reductions.first_placeless()
    )
    if placeless is None:
        assert model.forward_intermediates(VIDEO, intermediates_only=True)[2].shape == (2, 16, 3, 2, 4)
    else:
        with pytest.raises(ValueError, match=f"no places behind block {placeless}; set output_fmt='NLC'"):
            model.forward_intermediates(VIDEO, [2])
    if placeless == 1:
        (maps,) = model.forward_intermediates(VIDEO, [0], intermediates_only=True)
        assert torch.equal(maps.flatten(2).mT, tokens[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slimming": {"after": [3]}}, r"blocks, 0 to 2, got \[3\]"),
        ({"slimming": {"after": [1, 0]}}, "each block once, in rising order"),
        ({"slimming": {"after": [0], "ratio": 1.0}}, "above 0 and below 1, got ratio=1.0"),
        ({"slimming": {"after": [0, 1], "ratio": 0.01}}, "leaves none"),
        ({"slimming": {"aftr": [0]}}, "no option 'aftr'.*did you mean 'after'"),
        ({"slimming": {"ratio": 0.5}}, "slimming needs the option 'after'"),
        ({"merging": {"token": 2}}, "did you mean 'tokens'"),
        ({"deformable_merging": {"after": [True]}}, "lists indices of blocks"),
        ({"slimming": {"after": [0]}, "merging": {"tokens": 2}}, "in one way, got slimming=.* and merging="),
        ({"slimming": {"after": [0]}, "local_interaction": "space"}, "behind block 0 have no neighbours"),
        (
            {"slimming": {"after": [0]}, "joint_attention": ["dense", "fibottention", "dense"]},
            "joint_attention='fibottention' of block 1 mixes tokens by their places",
        ),
        (
            {"deformable_merging": {"after": [1]}, "joint_attention": "semanir"},
            "joint_attention='semanir' of block 2 continues what earlier blocks found",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_model_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        TimeSformer(**{**SIZES, "attention_type": "joint_space_time", **options})


def test_sparse_blocks_may_stand_in_front_of_slimming():
    model = TimeSformer(
        **SIZES,
        attention_type="joint_space_time",
        joint_attention=["fibottention", "dense", "linformer"],
        slimming={"after": [0]},
    )
    assert model.eval()(VIDEO).shape == (2, 5)


def test_processes_cannot_share_tokens_that_are_reduced(way):
    model = TimeSformer(**SIZES, attention_type="joint_space_time", pooling="mean", **way)
    with pytest.raises(ValueError, match="processes that share tokens cannot reduce them"):
        model.share_tokens(None)


def test_what_looks_at_patches_stops_where_there_are_fewer(way):
    model = TimeSformer(**SIZES, attention_type="joint_space_time", pooling="mean", **way).eval()
    with pytest.raises(ValueError, match=r"this model reduces its tokens; Grad-CAM serves this model"):
        attention_rollout(model, VIDEO)
    heat, _ = grad_cam(model, VIDEO, torch.tensor([0, 1]))
    assert heat.shape == (2, 3, 4, 8)
    first = model.first_reduction()
    assert torch.equal(heat, grad_cam(model, VIDEO, torch.tensor([0, 1]), block=first)[0])
    with pytest.raises(ValueError, match=f"block 2 has fewer tokens than there are patches; name -3 to {first}"):
        grad_cam(model, VIDEO, torch.tensor([0, 1]), block=2)


def test_layouts_of_others_do_not_hold_it(way, tmp_path):
    model = TimeSformer(**SIZES, **way)
    assert not holds_dense(model)
    for remote_code in (False, True):
        with pytest.raises(CheckpointError, match="fewer tokens in later blocks"):
            save_hugging_face(model, tmp_path, remote_code=remote_code)


def test_features_are_of_the_tokens_that_are_left(way):
    model = TimeSformer(**SIZES, **way).eval()
    _, (tokens,) = model.forward_intermediates(VIDEO, [1], norm=True, output_fmt="NLC")
    assert torch.equal(FeatureModel(model, "tokens", 1)(VIDEO), tokens)
    assert FeatureModel(model, "pooled", 1)(VIDEO).shape == (2, 16)


@pytest.mark.parametrize("name", [name for name in PLACELESS_MIXERS if name not in ("none", "linformer")])
def test_places_are_nothing_to_the_mixers_of_placeless_tokens(name):
    torch.manual_seed(0)
    mixer = MIXERS[name].build(LayerSpec(16, 2, 1, (1, 9, 1))).eval()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, order = torch.randn(2, 10, 16), torch.cat((torch.zeros(1, dtype=torch.long), 1 + torch.randperm(9)))
    with torch.no_grad():
        found, expected = mixer(x[:, order], (1, 9, 1), None)[0], mixer(x, (1, 9, 1), None)[0][:, order]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_time_may_be_mixed_by_place_where_frames_are_slimmed():
    model = TimeSformer(**SIZES, time_attention="fibottention", slimming={"after": [0]})
    assert model.eval()(VIDEO).shape == (2, 5)


def test_the_exported_graph_is_the_model(way):
    model = TimeSformer(**SIZES, attention_type="joint_space_time", **way).eval()
    program = torch.export.export(
        model, (VIDEO,), dynamic_shapes={"video": {0: torch.export.Dim("batch", min=1, max=8)}}
    )
    other = VIDEO.repeat(2, 1, 1, 1, 1)[:3]
    torch.testing.assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_is_the_model(way, attention_type):
    model = TimeSformer(**SIZES, attention_type=attention_type, **way)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=False)
    for each in (model, compiled):
        each.eval()
    torch.testing.assert_close(compiled(VIDEO), model(VIDEO), rtol=1e-4, atol=1e-5)
