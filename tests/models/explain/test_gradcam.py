"""Grad-CAM against its two equations, written out on a model's own blocks."""

import pytest
import torch
from einops import rearrange

from tests.models.test_baselines import NAMES, tiny
from videofib.models import TimeSformer
from videofib.models.explain import grad_cam
from videofib.models.explain.gradcam import last_block

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3, drop_path_rate=0.0
)
CLIP = (2, 3, 4, 16, 24)
MODELS = {
    "joint": dict(attention_type="joint_space_time", joint_attention="fibottention"),
    "joint, frame after frame": dict(attention_type="joint_space_time", token_order="thw", num_registers=1),
    "divided": dict(attention_type="divided_space_time"),
    "mean": dict(attention_type="joint_space_time", class_token=False, pooling="mean"),
    "space only": dict(attention_type="space_only"),
}


def by_equations(model, video, classes, block):
    """ReLU of the sum of channels, each weighted by its mean gradient, from the blocks called one by one."""
    t, h, w = grid = model.patch_embed.grid_of(video)
    own = (1, h, w) if model.single_frames else grid
    x, memory = model.norm_pre(model.embed(video)), {}
    for index in range(block):
        x, memory = model.blocks[index](x, own, memory)
    tokens = x.detach().requires_grad_()
    x = tokens
    for index in range(block, len(model.blocks)):
        x, memory = model.blocks[index](x, own, memory)
    if model.single_frames:
        x = rearrange(x, "(b t) n d -> b t n d", t=t).mean(1)
    pooled = x[:, 0] if model.tokens.pooling == "class_token" else x[:, model.num_prefix_tokens :].mean(1)
    logits = model.head(model.norm(pooled))
    (gradient,) = torch.autograd.grad(sum(logits[i, c] for i, c in enumerate(classes)), tokens)
    layout = "(b t) (h w) d" if model.single_frames else f"b ({model.order}) d"
    maps = [
        rearrange(z[:, model.num_prefix_tokens :], f"{layout} -> b t h w d", t=t, h=h, w=w)
        for z in (tokens.detach(), gradient)
    ]
    weights = maps[1].mean((1, 2, 3))
    return torch.einsum("bd,bthwd->bthw", weights, maps[0]).clamp_min(0), logits


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_equations(name, randomize):
    model = randomize(TimeSformer(**TINY, **MODELS[name])).double()
    video, classes = torch.randn(CLIP, dtype=torch.float64), torch.tensor([3, 0])
    last = 3 if name == "mean" else 2
    assert last_block(model) == last
    for block in range(last + 1):
        expected, logits = by_equations(model, video, classes, block)
        found, own_logits = grad_cam(model, video, classes, block=block)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(own_logits, logits)
        assert found.max() > 0
    torch.testing.assert_close(grad_cam(model, video, classes)[0], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        grad_cam(model, video, classes, block=-1)[0], grad_cam(model, video, classes, block=2)[0]
    )


def test_works_where_gradients_are_off_and_leaves_none_behind(randomize):
    model = randomize(TimeSformer(**TINY, **MODELS["joint"]))
    with torch.no_grad():
        heat, logits = grad_cam(model, torch.randn(CLIP), torch.tensor([1, 1]))
    assert not heat.requires_grad
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_blocks_that_are_not_there_or_have_no_influence_are_refused(randomize):
    model, video, classes = randomize(TimeSformer(**TINY, **MODELS["joint"])), torch.randn(CLIP), torch.tensor([1, 1])
    with pytest.raises(ValueError, match="no block 4 in a model of 3; name -3 to 2"):
        grad_cam(model, video, classes, block=4)
    with pytest.raises(ValueError, match="no influence on the class token; name -3 to 2"):
        grad_cam(model, video, classes, block=3)
    with pytest.raises(ValueError, match="serves TimeSformer and the baselines, got Linear"):
        grad_cam(torch.nn.Linear(2, 2), video, classes)


@pytest.mark.parametrize("name", NAMES)
def test_baselines_have_heat_on_their_last_feature_map(name):
    model, video = tiny(name), torch.randn(2, 3, 8, 64, 64)
    heat, logits = grad_cam(model, video, torch.tensor([0, 4]))
    # SlowFast's slow pathway sees 2 of 8 frames; R(2+1)D has strides in time; MViT's patches are 2 frames long
    assert heat.shape == (2, {"X3D_S": 8, "MViT_B": 4}.get(name, 2), 2, 2)
    assert heat.max() > 0
    torch.testing.assert_close(logits, model(video))
    with pytest.raises(ValueError, match="a block can be chosen of a TimeSformer alone"):
        grad_cam(model, video, torch.tensor([0, 4]), block=1)


def test_heat_of_a_linear_head_over_a_mean_is_the_class_activation_map():
    """R(2+1)D's classifier follows the mean over positions, where Grad-CAM is CAM (the paper's appendix A), over N."""
    model, video = tiny("R2plus1D_R50"), torch.randn(1, 3, 8, 64, 64)
    seen = []
    handle = model.blocks[-1].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    heat, _ = grad_cam(model, video, torch.tensor([2]))
    handle.remove()
    positions = heat.numel()
    expected = torch.einsum("d,bdthw->bthw", model.classifier.weight[2], seen[0]).relu() / positions
    torch.testing.assert_close(heat, expected.detach())
