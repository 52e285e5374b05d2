"""Attention rollout equals the product of dense matrices, for every layout of tokens and either masking."""

import pytest
import torch

from videofib.models import TimeSformer
from videofib.models.explain import attention_rollout
from videofib.models.explain.reference import dense_rollout

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3, drop_path_rate=0.0
)
WITHOUT = dict(class_token=False, pooling="mean")
ZERO = {"fibottention": {"masking": "zero_logit", "w_min": 2, "head_order": "per_layer"}}
JOINT = dict(attention_type="joint_space_time", joint_attention="fibottention")
MODELS = {
    "joint": JOINT,
    "joint, zero logits": {**JOINT, "mixer_options": ZERO},
    "joint, frame after frame": {**JOINT, "token_order": "thw", "num_registers": 2},
    "joint, no prefix": {**JOINT, **WITHOUT},
    "joint, no prefix, zero logits": {**JOINT, **WITHOUT, "mixer_options": ZERO},
    "joint, registers, mean": {**JOINT, "num_registers": 1, "pooling": "mean", "qk_norm": True},
    "joint, tubelets": {**JOINT, "tubelet_size": 2},
    "joint, dense": dict(attention_type="joint_space_time"),
    "divided": dict(attention_type="divided_space_time", num_registers=2),
    "divided, fibottention": dict(space_attention="fibottention", time_attention="fibottention", mixer_options=ZERO),
    "divided, no prefix": dict(attention_type="divided_space_time", **WITHOUT),
    "space only": dict(attention_type="space_only", num_registers=1),
    "space only, fibottention, mean": dict(attention_type="space_only", space_attention="fibottention", pooling="mean"),
}


@pytest.fixture(params=MODELS)
def model(request, randomize):
    return randomize(TimeSformer(**{**TINY, **MODELS[request.param]})).double()


def test_equal_to_the_product_of_dense_matrices(model):
    video = torch.randn(2, 3, 4, 16, 24, dtype=torch.float64)
    found = attention_rollout(model, video)
    expected = dense_rollout(model, video)
    assert found.heat.shape == expected.shape == (2, 4 // model.patch_embed.tubelet_size, 2, 3)
    torch.testing.assert_close(found.heat, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.heat.sum((1, 2, 3)) + found.prefix, torch.ones(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.logits, model(video))
    assert found.heads.shape == (2, 3, *found.heat.shape[1:])


def test_clips_of_another_size_and_many_tokens(randomize):
    model = randomize(TimeSformer(**{**TINY, **JOINT})).double()
    video = torch.randn(1, 3, 7, 40, 24, dtype=torch.float64)  # 7 x 5 x 3 tokens
    torch.testing.assert_close(attention_rollout(model, video).heat, dense_rollout(model, video), rtol=0, atol=1e-12)


def test_heads_are_rows_of_the_class_token(randomize):
    """With one block: rollout is the mean of the heads, halved."""
    model = randomize(TimeSformer(**{**TINY, **JOINT, "depth": 1})).double()
    found = attention_rollout(model, torch.randn(2, 3, 4, 16, 24, dtype=torch.float64))
    torch.testing.assert_close(found.heads.mean(1) / 2, found.heat, rtol=0, atol=1e-12)
    assert (found.heads.sum((2, 3, 4)) < 1).all()  # the class token sees itself, too


def test_a_patch_that_no_layer_connects_to_the_features_has_no_share():
    """Mean of patches, one head with one offset: after one block each patch sees the patches at that distance alone."""
    options = {"fibottention": {"w_min": 1, "w_max": 1}}
    model = TimeSformer(**{**TINY, **JOINT, **WITHOUT, "depth": 1, "num_heads": 1, "mixer_options": options}).eval()
    found = attention_rollout(model, torch.randn(1, 3, 4, 16, 24)).heat
    in_line = found.permute(0, 2, 3, 1).flatten()  # h w t, the order of tokens
    # offset 1: each inner patch is seen by two neighbours, whose weights are about 1/2; the ends by one
    assert 1 / 48 < in_line[0] < in_line[1]
    assert in_line.sum().item() == pytest.approx(1)


def test_a_model_without_such_attention_is_refused(randomize):
    with pytest.raises(ValueError, match="rollout needs a TimeSformer, got Linear; Grad-CAM serves this model"):
        attention_rollout(torch.nn.Linear(2, 2), torch.zeros(1))
    model = randomize(TimeSformer(**{**TINY, **JOINT}))
    model.blocks[1].attn = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"blocks\.1\.attn is Identity"):
        attention_rollout(model, torch.zeros(1, 3, 4, 16, 24))


def test_hooks_are_gone_afterwards(randomize):
    model = randomize(TimeSformer(**{**TINY, **JOINT}))
    with pytest.raises(ValueError, match="do not divide"):
        attention_rollout(model, torch.zeros(1, 3, 4, 16, 25))
    assert not any(module._forward_pre_hooks for module in model.modules())
