"""Class attention against loops, and models whose class token joins after the blocks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import reduce
from timm.models.vision_transformer import VisionTransformer

from videofib.checkpoint.file import CheckpointError
from videofib.mixers import LayerSpec
from videofib.models.blocks import BlockSpec
from videofib.models.class_attention import ClassAttention, ClassAttentionBlock
from videofib.models.explain import attention_rollout
from videofib.models.pretrained import export
from videofib.models.pretrained.load import load_pretrained
from videofib.models.timesformer import TimeSformer

LAYER = LayerSpec(dim=15, num_heads=3, num_prefix_tokens=0, grid=(1, 2, 3))
SPEC = BlockSpec(15, 2.0, 0.0, 1e-6, 0.1)
TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3, drop_path_rate=0.0
)
CLIP = (2, 3, 4, 16, 24)
TYPES = ("divided_space_time", "joint_space_time", "space_only")


def slow_block(block, x, tokens_norm):
    """One sequence (n, D), token by token."""
    normed = F.layer_norm(x, x.shape[1:], block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = block.attn.qkv(normed).chunk(3, dim=1)
    heads = []
    for channels in torch.arange(x.shape[1]).chunk(block.attn.num_heads):
        logits = torch.stack([q[0, channels] @ key[channels] for key in k]) / len(channels) ** 0.5
        heads.append(sum(weight * value[channels] for weight, value in zip(logits.softmax(0), v, strict=True)))
    read = block.attn.proj(torch.cat(heads))
    rows = []
    for i, token in enumerate(x):
        token = token + block.ls1.gamma * (read if i == 0 else normed[i])
        if i == 0 or tokens_norm:
            token = F.layer_norm(token, token.shape, block.norm2.weight, block.norm2.bias, 1e-6)
        rows.append(token + block.ls2.gamma * block.mlp(token) if i == 0 else 2 * token)
    return torch.stack(rows)


@pytest.mark.parametrize("tokens_norm", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_block_is_that_of_loops_and_so_are_its_gradients(tokens_norm, qkv_bias, randomize):
    layer = replace(LAYER, qkv_bias=qkv_bias)
    block = randomize(ClassAttentionBlock(layer, SPEC, tokens_norm=tokens_norm).double()).train()
    x, weight = torch.randn(2, 8, 15, dtype=torch.float64, requires_grad=True), torch.randn(2, 8, 15).double()
    found, expected = block(x), torch.stack([slow_block(block, sequence, tokens_norm) for sequence in x])
    torch.testing.assert_close(found, expected)
    tensors = [x, *block.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), tensors) for y in (found, expected)))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="got embed_dim=15, num_heads=4"):
        ClassAttention(replace(LAYER, num_heads=4))


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("num_registers", [0, 2])
def test_the_class_token_reads_patches_behind_the_blocks(attention_type, num_registers, randomize):
    model = randomize(
        TimeSformer(
            **TINY,
            attention_type=attention_type,
            num_registers=num_registers,
            pooling="class_attention",
            token_order="thw",
        )
    )
    video, seen = torch.randn(CLIP), []
    model.blocks[-1].register_forward_hook(lambda *args: seen.append(args[2][0]))
    features = model.forward_features(video)
    frames, patches = (4, 6) if attention_type == "space_only" else (1, 24)
    assert seen[0].shape == (2 * frames, num_registers + patches, 24)
    x = reduce(seen[0][:, num_registers:], "(b t) n d -> b n d", "mean", t=frames)
    x = torch.cat((model.class_attention.cls_token.expand(2, -1, -1), x), dim=1)
    for block in model.class_attention.blocks:
        x = block(x)
    torch.testing.assert_close(features, model.norm(x[:, 0]))
    assert len(model.class_attention.blocks) == 2


def test_other_parts_of_a_model_know_of_it(randomize):
    model = TimeSformer(**TINY, pooling="class_attention", num_registers=1)
    assert model.num_prefix_tokens == 1
    assert model.layer_of("class_attention.blocks.0.mlp.fc1.weight") == model.num_layers == 4
    assert "class_attention.cls_token" in model.no_weight_decay()
    assert model.no_weight_decay() >= {name for name, p in model.named_parameters() if name.endswith("cls_token")}
    features, found = randomize(model).forward_intermediates(torch.randn(CLIP), return_prefix_tokens=True)
    assert features.shape == (2, 24)
    assert [(patches.shape, prefix.shape) for patches, prefix in found] == [((2, 24, 4, 2, 3), (2, 1, 24))] * 3


def test_every_parameter_has_a_gradient_also_with_recomputation(randomize):
    gradients = []
    for gradient_checkpointing in (False, True):
        model = TimeSformer(**TINY, pooling="class_attention", gradient_checkpointing=gradient_checkpointing)
        randomize(model).train()(torch.ones(CLIP)).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(gradient.any() for name, gradient in gradients[0].items() if name.startswith("class_attention"))
    torch.testing.assert_close(*gradients)


def test_a_model_of_the_meta_device_starts_as_another():
    options = dict(**TINY, pooling="class_attention", layer_scale=0.1)
    torch.manual_seed(0)
    expected = TimeSformer(**options).state_dict()
    with torch.device("meta"):
        model = TimeSformer(**options)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    torch.manual_seed(0)
    model.reset_parameters()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert found["class_attention.cls_token"].std() == pytest.approx(0.02 * (768 / 24) ** 0.5, rel=0.4)
    for name in ("class_attention.blocks.0.ls1.gamma", "class_attention.blocks.1.norm2.weight"):
        torch.testing.assert_close(found[name], expected[name])


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pooling='class_attention' needs class_token=True"):
        TimeSformer(**TINY, pooling="class_attention", class_token=False)
    model = TimeSformer(**TINY, pooling="class_attention", attention_type="joint_space_time")
    with pytest.raises(ValueError, match="cannot pool by class attention"):
        model.share_tokens(None)
    with pytest.raises(ValueError, match="does not pass through pooling='class_attention'"):
        attention_rollout(model, torch.randn(CLIP))
    with pytest.raises(CheckpointError, match="pooling by class attention"):
        export.save_hugging_face(model, tmp_path)
    with pytest.raises(CheckpointError, match="cannot compute a model with pooling by class attention"):
        export.save_hugging_face(model, tmp_path, remote_code=True)


def test_weights_of_an_image_model_start_the_blocks_of_cross_covariance_attention(randomize):
    theirs = randomize(VisionTransformer(img_size=(16, 24), patch_size=8, embed_dim=24, depth=3, num_heads=3))
    ours = TimeSformer(
        **TINY, attention_type="joint_space_time", joint_attention="xcit", pooling="class_attention", norm_eps=1e-6
    )
    report = load_pretrained(ours, theirs)
    torch.testing.assert_close(ours.blocks[1].attn.qkv.weight, theirs.blocks[1].attn.qkv.weight)
    fresh = {name for name, _ in ours.named_parameters() if name.startswith("class_attention") or "temperature" in name}
    assert fresh <= report.initialised.keys()
    assert "cls_token" in report.unused
