"""Blocks that map the attention branch of the block before (SkipAt), against a loop by hand, in whole models."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from videofib.mixers import MIXERS
from videofib.models import TimeSformer
from videofib.models.explain.gradcam import last_block
from videofib.models.explain.rollout import has_rollout
from videofib.models.exports.program import plain_copy, trace
from videofib.models.pretrained.export import holds_dense
from videofib.models.profiling import cost, forward_multiply_adds
from videofib.models.skip_attention import BRANCHES, SkipNetwork

SIZES = dict(img_size=(24, 40), patch_size=8, num_classes=5, num_frames=4, tubelet_size=2, embed_dim=24, depth=6,
             num_heads=3, drop_path_rate=0.0, num_registers=2)  # fmt: skip
CLIP = (2, 3, 4, 24, 40)
GRID = (2, 3, 5)
TYPES = ["joint_space_time", "divided_space_time", "space_only"]
SKIPPED = (1, 3, 4)
GAPS = [{"blocks": SKIPPED, "source": source} for source in ("previous", "released")]


@pytest.fixture(params=TYPES)
def attention_type(request):
    return request.param


@pytest.fixture(params=GAPS, ids=lambda options: options["source"])
def skip(request):
    return request.param


def build(**options):
    return TimeSformer(**{**SIZES, "skip_attention": SKIPPED, **options})


def gradients(model, video):
    model.zero_grad()
    model(video).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- the network


def network_by_loops(network, patches, grid, order):
    """Phi of one sequence (N, d), patch by patch."""
    (t, h, w), (kt, kh, kw) = grid, network.kernel
    index = {"h w t": lambda i, y, x: (y * w + x) * t + i, "t h w": lambda i, y, x: (i * h + y) * w + x}[order]
    hidden = F.gelu(patches @ network.fc1.weight.T + network.fc1.bias)
    kernel = network.dwconv.weight.reshape(-1, kt, kh, kw)
    rows = [None] * len(patches)
    for i in range(t):
        for y in range(h):
            for x in range(w):
                total = network.dwconv.bias.clone()
                for a in range(kt):
                    for b in range(kh):
                        for c in range(kw):
                            j = (i + a - kt // 2, y + b - kh // 2, x + c - kw // 2)
                            if all(0 <= position < size for position, size in zip(j, grid, strict=True)):
                                total = total + kernel[:, a, b, c] * hidden[index(*j)]
                rows[index(i, y, x)] = F.gelu(total) @ network.fc2.weight.T + network.fc2.bias
    rows = torch.stack(rows)
    padded, taps = F.pad(rows.mean(0), (1, 1)), network.eca.weight.flatten()
    gate = torch.stack([(taps * padded[i : i + 3]).sum() for i in range(rows.shape[1])]).sigmoid()
    return rows * gate


@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize(
    ("grid", "kernel"), [((2, 3, 5), (1, 5, 5)), ((3, 4, 2), (3, 3, 3)), ((4, 1, 1), (3, 1, 1)), ((1, 1, 1), (1, 5, 5))]
)
def test_the_network_is_that_of_the_equations(grid, kernel, order):
    torch.manual_seed(0)
    network = SkipNetwork(6, order=order, num_prefix_tokens=2, kernel=kernel, ratio=1.5).double()
    patches = grid[0] * grid[1] * grid[2]
    x = torch.randn(2, 2 + patches, 6, dtype=torch.float64, requires_grad=True)
    found = network(x, grid)
    by_loops = torch.stack([network_by_loops(network, row[2:], grid, order) for row in x])
    expected = torch.cat((x[:, :2], by_loops), dim=1)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    one = torch.autograd.grad((found * weight).sum(), [x, *network.parameters()])
    two = torch.autograd.grad((expected * weight).sum(), [x, *network.parameters()])
    torch.testing.assert_close(one, two)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match=r"odd sizes.* got \(1, 4, 4\)"):
        build(skip_attention={"blocks": [1], "kernel": 4})


# ---- what blocks hand on


def branches_by_hand(model, video):
    """The logits of a joint or space-only model, and the branch of each block, by the description's words."""
    grid = model.patch_embed.grid_of(video)
    own = (1, *grid[1:]) if model.single_frames else grid
    prefix, released = model.num_prefix_tokens, model.across.source == "released"
    x, branches, mapped, computed = model.embed(video), [], None, None
    for index, block in enumerate(model.blocks):
        if index in model.across.blocks:
            source = mapped if released and mapped is not None else branches[-1]
            patches = block.skip(source, own)[:, prefix:]
            branch = mapped = torch.cat((computed[:, :prefix], patches), dim=1)
        else:
            branch = computed = block.attn(block.norm1(x), own, None)[0]
        branches.append(branch)
        x = x + branch
        x = x + block.mlp(block.norm2(x), {})[0]
    if model.single_frames:
        x = rearrange(x, "(b t) n d -> b t n d", t=grid[0]).mean(1)
    return model.head(model.norm(x[:, 0])), branches


@pytest.mark.parametrize("kind", ["joint_space_time", "space_only"])
def test_a_model_is_that_of_the_description(kind, skip, randomize):
    model = randomize(build(attention_type=kind, skip_attention=skip))
    video = torch.randn(CLIP)
    expected, _ = branches_by_hand(model, video)
    torch.testing.assert_close(model(video), expected, atol=1e-5, rtol=1e-5)
    found = gradients(model, video)
    model.zero_grad()
    branches_by_hand(model, video)[0].square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-4, rtol=1e-4)


def test_the_sources_differ_behind_a_gap_alone(attention_type, randomize):
    video = torch.randn(CLIP)
    for blocks, differ in (((1, 2, 3), False), ((1, 3), True)):
        one, two = (
            randomize(build(attention_type=attention_type, skip_attention={"blocks": blocks, "source": source}))(video)
            for source in ("previous", "released")
        )
        assert torch.allclose(one, two, atol=1e-6) != differ


def test_divided_branches_are_handed_on_apart(randomize):
    model = randomize(build(skip_attention=(1, 2)))
    video, kept = torch.randn(CLIP), {}
    for name, module in model.named_modules():
        if name.endswith(("attn", "skip")):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: kept.update(
                    {name: (inputs, output if isinstance(output, torch.Tensor) else output[0])}
                )
            )
    model(video)
    for part, shape in (("", (2 * 2, 3 + 15, 24)), ("temporal_", (2 * 15, 2, 24))):
        chain = [kept[f"blocks.{name}"] for name in (f"0.{part}attn", f"1.{part}skip", f"2.{part}skip")]
        assert all(output.shape == shape for _, output in chain)
        for (_, before), (inputs, _) in pairwise(chain):
            assert inputs[0] is before  # as computed: no averaging of the prefix's copies, no temporal_fc
    frames = {index: kept[f"blocks.{index}.skip"][1] for index in (1, 2)}
    assert torch.equal(frames[1][:, :3], frames[2][:, :3])  # the prefix of the last computing block, in every frame


def test_a_branch_is_handed_on_before_its_scale_and_drop_path(randomize):
    model = randomize(build(attention_type="joint_space_time", layer_scale=0.1, skip_attention=(1,)))
    video = torch.randn(CLIP)
    x = model.embed(video)
    y = model.blocks[0].attn(model.blocks[0].norm1(x), GRID, None)[0]
    memory = model.blocks[0](x, GRID, {})[1]
    assert torch.equal(memory[BRANCHES]["attn"], y)
    model.blocks[0].drop_path = torch.nn.Dropout(1.0).train()
    assert torch.equal(model.blocks[0](x, GRID, {})[1][BRANCHES]["attn"], y)


@pytest.mark.parametrize("source", ["previous", "released"])
def test_branches_that_nobody_reads_are_not_kept(source):
    model = build(attention_type="joint_space_time", skip_attention={"blocks": SKIPPED, "source": source})
    kept = []
    for stop in range(1, 7):
        memory = model.blocks.outputs(model.embed(torch.randn(CLIP)), GRID, stop=stop).memory
        kept.append("attn" in memory.get(BRANCHES, {}))
    assert (
        kept
        == {
            "previous": [True, False, True, True, False, False],
            "released": [True, True, True, True, False, False],
        }[source]
    )


# ---- whole models


def test_skipped_blocks_have_neither_a_mixer_nor_its_norm(attention_type):
    model = build(attention_type=attention_type)
    for index in SKIPPED:
        parts = {name.split(".")[0] for name, _ in model.blocks[index].named_parameters()}
        expected = {"skip", "norm2", "mlp"}
        if attention_type == "divided_space_time":
            expected |= {"temporal_skip", "temporal_fc"}
        assert parts == expected


def test_every_parameter_has_a_gradient(attention_type, skip, randomize):
    model = randomize(build(attention_type=attention_type, skip_attention=skip)).train()
    found = gradients(model, torch.randn(CLIP))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found.values())


@pytest.mark.parametrize("recompute", ["block", "cheap"])
@pytest.mark.parametrize("every", [1, 2])
def test_recomputation_changes_nothing(attention_type, skip, recompute, every, randomize):
    model = randomize(build(attention_type=attention_type, skip_attention=skip)).train()
    again = copy.deepcopy(model)
    again.blocks.recompute, again.blocks.recompute_every = recompute, every
    video = torch.randn(CLIP)
    expected, found = gradients(model, video), gradients(again, video)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def test_compilation_changes_nothing(attention_type, skip, randomize):
    model = randomize(build(attention_type=attention_type, skip_attention=skip)).train()
    video = torch.randn(CLIP)
    expected = gradients(model, video)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    found = gradients(compiled, video)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[f"_orig_mod.{name}"], gradient, atol=1e-4, rtol=1e-4)


def test_computing_in_16_bits_stays_near(attention_type, randomize):
    model, video = randomize(build(attention_type=attention_type)), torch.randn(CLIP)
    with torch.no_grad():
        expected = model.forward_features(video)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.forward_features(video)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_mean_over_tokens_has_32_bits():
    network = SkipNetwork(8, kernel=(1, 1, 1))
    means = []
    network.eca.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(1, 4, 8), (1, 2, 2))
    assert means == [torch.float32]


@pytest.mark.parametrize("name", [name for name, row in MIXERS.items() if "state" not in row.needs and name != "none"])
def test_any_mixer_may_compute_the_others(name):
    pooling = "class_token" if "class_token" in MIXERS[name].serves else "mean"
    model = build(attention_type="joint_space_time", joint_attention=name, num_heads=4, pooling=pooling)
    assert gradients(model, torch.randn(CLIP)).keys() == {key for key, p in model.named_parameters() if p.requires_grad}


def test_a_block_of_an_mlp_alone_may_stand_between(randomize):
    names = ["dense", "none", "dense", "none", "dense", "dense"]
    model = randomize(build(attention_type="joint_space_time", joint_attention=names, skip_attention=(4,)))
    x = model.embed(torch.randn(CLIP))
    memory = model.blocks.outputs(x, GRID, stop=4).memory
    before = model.blocks.outputs(x, GRID, stop=2).x
    y = model.blocks[2].attn(model.blocks[2].norm1(before), GRID, None)[0]
    assert torch.equal(memory[BRANCHES]["attn"], y)


def test_other_grids_than_the_models_are_taken(attention_type):
    model = build(attention_type=attention_type)
    assert model(torch.randn(1, 3, 8, 40, 16)).shape == (1, 5)


@pytest.mark.parametrize("time_kernel", [None, 3])
def test_profiles_agree_with_the_formula(attention_type, time_kernel):
    if time_kernel and attention_type != "joint_space_time":
        return
    options = dict(attention_type=attention_type, num_registers=0)
    dense = build(**options, skip_attention=None)
    model = build(**options, skip_attention={"blocks": SKIPPED, "time_kernel": time_kernel})
    dim, (t, h, w) = 24, GRID

    def attention(tokens):
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim

    def network(patches, taps):  # 4·N·D² + 2·taps·N·D, and three taps a channel
        return 4 * patches * dim**2 + 2 * taps * patches * dim + 3 * dim

    computed, skipped = {
        "joint_space_time": (attention(1 + t * h * w), network(t * h * w, 25 * (time_kernel or 1))),
        "space_only": (t * attention(1 + h * w), t * network(h * w, 25)),
        "divided_space_time": (
            t * attention(1 + h * w) + h * w * attention(t),
            t * network(h * w, 25) + h * w * network(t, 5),
        ),
    }[attention_type]
    saved = forward_multiply_adds(dense, CLIP[1:]) - forward_multiply_adds(model, CLIP[1:])
    assert saved == len(SKIPPED) * (computed - skipped)
    grids = {"skip": (1, h, w) if attention_type != "joint_space_time" else GRID, "temporal_skip": (t, 1, 1)}
    times = {"skip": 1 if attention_type == "joint_space_time" else t, "temporal_skip": h * w}
    counted = sum(
        times[name] * getattr(model.blocks[1], name).multiply_adds(grids[name])
        for name in times
        if hasattr(model.blocks[1], name)
    )
    assert counted == skipped
    assert cost(model, CLIP[1:]).multiply_adds == pytest.approx(forward_multiply_adds(model, CLIP[1:]), rel=0.15)


def test_the_published_figure_of_a_network():
    # 2 per multiply-add: 238.7 M at N = 196, D = 384
    assert 2 * SkipNetwork(384).multiply_adds((1, 14, 14)) == pytest.approx(238.7e6, rel=0.01)


@pytest.mark.slow
def test_exported_programs_compute_the_same(attention_type, randomize):
    model = plain_copy(randomize(build(attention_type=attention_type)))
    exported = trace(model, CLIP[1:]).module()
    with torch.no_grad():
        for batch in (1, 3):
            video = torch.randn(batch, *CLIP[1:])
            torch.testing.assert_close(exported(video), model(video), atol=1e-4, rtol=1e-4)


def test_a_model_made_without_values_becomes_the_same():
    torch.manual_seed(3)
    expected = build()
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    model.reset_parameters()
    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key
        if value.numel() > 20 and expected.state_dict()[key].std() > 0:
            assert 0.3 < value.std() / expected.state_dict()[key].std() < 3, key


# ---- what is refused, and what others make of such a model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_attention": [0, 1]}, "block 0 cannot skip its attention, since no block before it computes any"),
        ({"skip_attention": [2, 6]}, r"skips blocks \[2, 6\], and the model has blocks 0 to 5"),
        ({"skip_attention": [3, 2]}, "ascending order, each once, got blocks="),
        ({"skip_attention": []}, "ascending order, each once, got blocks="),
        ({"skip_attention": {"blocks": [1], "sources": "previous"}}, "no option 'sources'.*did you mean 'source'"),
        ({"skip_attention": {"blocks": [1], "source": "paper"}}, "unknown source of skip_attention 'paper'"),
        ({"skip_attention": {"blocks": [1.5]}}, "option 'blocks' of skip_attention must be .*, got blocks="),
        ({"skip_attention": {"kernel": 3}}, "skip_attention needs the option 'blocks'"),
        ({"skip_attention": True}, "takes a mapping of options, or None, got skip_attention=True"),
        ({"skip_attention": [4, 5]}, "what block 5 maps would not reach the features.*pooling='mean'"),
        ({"skip_attention": {"blocks": [1], "time_kernel": 3}}, "time_kernel=3 is for joint_space_time attention"),
        ({"skip_attention": [1], "space_attention": "semanir"}, "'semanir' needs what every block before it computes"),
        ({"skip_attention": [1], "less_attention": {"time": 2}}, "in one way only, got skip_attention and less_att"),
        (
            {"space_attention": ["dense", "none", *["dense"] * 4], "time_attention": ["dense", "none", *["dense"] * 4]},
            "block 1 has no attention to skip",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_the_last_blocks_may_skip_where_patches_are_pooled(attention_type):
    model = build(attention_type=attention_type, pooling="mean", skip_attention=(4, 5))
    assert gradients(model, torch.randn(CLIP)).keys() == {name for name, _ in model.named_parameters()}


def test_processes_cannot_share_tokens():
    with pytest.raises(ValueError, match=r"processes that share tokens cannot skip attention.*=\[1, 3, 4\]; set None"):
        build(attention_type="joint_space_time").share_tokens(None)


def test_what_knows_dense_models_alone_refuses():
    model = build(attention_type="joint_space_time", num_registers=0)
    assert model.attention_settings() == {"skip_attention": [1, 3, 4], "skip_source": "previous"}
    assert not holds_dense(model)
    assert not has_rollout(model)
    assert last_block(model) == 5
    assert last_block(build(skip_attention=(1,), space_attention=["dense"] * 4 + ["none"] * 2,
                            time_attention=["dense"] * 4 + ["none"] * 2)) == 3  # fmt: skip
