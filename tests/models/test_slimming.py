"""Token slimming and recovery: against loops, by frames, and a slimmed model that equals the unslimmed one."""

import pytest
import torch

from videofib.models import TimeSformer
from videofib.models.blocks import GRID
from videofib.models.recovery import TokenRecovery, recover_tokens
from videofib.models.slimming import TokenSlimming, slim

SIZES = dict(img_size=(24, 40), patch_size=8, num_classes=5, num_frames=3, embed_dim=16, depth=3, num_heads=2)


def test_a_soft_token_is_a_convex_combination_of_all_tokens():
    torch.manual_seed(0)
    tokens, scores = torch.randn(2, 7, 4, dtype=torch.double), torch.randn(2, 7, 3, dtype=torch.double)
    found = slim(tokens, scores)
    for b in range(2):
        for k in range(3):
            weights = scores[b, :, k].exp() / scores[b, :, k].exp().sum()
            torch.testing.assert_close(found[b, k], sum(weights[n] * tokens[b, n] for n in range(7)))
    assert torch.autograd.gradcheck(slim, (tokens.requires_grad_(), scores.requires_grad_()))


@pytest.mark.parametrize("order", ["h w t", "t h w"])
def test_frames_are_slimmed_one_by_one_with_the_same_weights(order):
    torch.manual_seed(1)
    t, h, w, d = 3, 2, 5, 8
    slimming = TokenSlimming(d, 4, order=order, num_prefix_tokens=2, frames=True)
    prefix, frames = torch.randn(2, 2, d), torch.randn(2, t, h, w, d)
    patches = frames if order == "t h w" else frames.permute(0, 2, 3, 1, 4)
    x, memory = slimming(torch.cat((prefix, patches.flatten(1, 3)), 1), (t, h, w), {})
    assert memory[GRID] == (t, 4, 1)
    assert torch.equal(x[:, :2], prefix)
    alone = TokenSlimming(d, 4)
    alone.load_state_dict(slimming.state_dict())
    soft = x[:, 2:].unflatten(1, (t, 4) if order == "t h w" else (4, t))
    for i in range(t):
        expected, _ = alone(frames[:, i].flatten(1, 2), (1, h, w), {})
        torch.testing.assert_close(soft[:, i] if order == "t h w" else soft[:, :, i], expected)


@pytest.mark.parametrize(("ratio", "left"), [(0.5, [22, 11]), (0.3, [13, 4])])
def test_numbers_of_soft_tokens_are_fractions_of_all_tokens_rounded_down(ratio, left):
    model = TimeSformer(**SIZES, attention_type="joint_space_time", slimming={"after": [0, 1], "ratio": ratio})
    assert [module.num_soft for module in model.reductions.values()] == left  # of 3 · 3 · 5 = 45
    assert [grid[1] for grid in model.reductions.grids[1:]] == left


@pytest.mark.parametrize("attention_type", ["joint_space_time", "divided_space_time", "space_only"])
@pytest.mark.parametrize("pooling", ["class_token", "mean", "class_attention"])
def test_soft_tokens_that_are_the_tokens_in_another_order_change_nothing(
    attention_type, pooling, randomize, monkeypatch
):
    """With K = N and one-hot weights the later blocks see the same set of tokens, and position is nothing to them."""
    options = {**SIZES, "attention_type": attention_type, "pooling": pooling}
    unslimmed = randomize(TimeSformer(**options))
    slimmed = TimeSformer(**options, slimming={"after": [1], "ratio": 0.99999999, "per_frame": True}).eval()
    slimmed.load_state_dict(unslimmed.state_dict(), strict=False)
    (reduction,) = slimmed.reductions.values()
    reduction.num_soft = 15
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    one_hot = 1e9 * torch.eye(15)[:, order]
    reduction.weight = torch.nn.Identity()
    monkeypatch.setattr(
        "videofib.models.slimming.slim", lambda tokens, scores: slim(tokens, one_hot.expand(len(tokens), -1, -1))
    )
    video = torch.randn(2, 3, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(slimmed(video), unslimmed(video), rtol=1e-4, atol=1e-5)
        _, tokens = unslimmed.forward_intermediates(video, [2], output_fmt="NLC")
        _, soft = slimmed.forward_intermediates(video, [2], output_fmt="NLC")
    frames = tokens[0].unflatten(1, (3, 15))[:, :, order]
    torch.testing.assert_close(soft[0].unflatten(1, (3, 15)), frames, rtol=1e-4, atol=1e-4)


def test_recovery_mixes_tokens_then_channels():
    torch.manual_seed(2)
    recovery = TokenRecovery(6, 3, 5).double()
    x = torch.randn(2, 3, 6, dtype=torch.double)
    y = recovery(x)
    z = recovery.norm1(x).transpose(1, 2)
    z = recovery.mlp1.fc2(torch.nn.functional.gelu(recovery.mlp1.fc1(z))).transpose(1, 2)
    z = z + recovery.mlp2.fc2(torch.nn.functional.gelu(recovery.mlp2.fc1(recovery.norm2(z))))
    torch.testing.assert_close(y, z)
    assert y.shape == (2, 5, 6)


@pytest.mark.parametrize(
    ("attention_type", "per_frame", "every", "named"),
    [
        ("joint_space_time", False, 1, ["1", "2"]),
        ("joint_space_time", True, 2, ["2"]),
        ("divided_space_time", False, 1, ["1", "2"]),
        ("space_only", False, 3, ["2"]),
    ],
)
def test_recovered_tokens_are_as_many_as_those_of_the_unslimmed_model(attention_type, per_frame, every, named):
    model = TimeSformer(**SIZES, attention_type=attention_type, slimming={"after": [1], "per_frame": per_frame})
    without = set(model.state_dict())
    recovery = recover_tokens(model, every)
    assert list(recovery) == named
    logits, tokens = model(torch.randn(2, 3, 3, 24, 40), recover=True)
    assert logits.shape == (2, 5)
    assert [tuple(each.shape) for each in tokens] == [(2, 45, 16)] * len(range(2, -1, -every))
    assert all(name.startswith("recovery.") for name in set(model.state_dict()) - without)
    sum(each.square().sum() for each in tokens).backward()
    assert all(
        p.grad is not None for name, p in model.named_parameters() if name.startswith(("recovery", "reductions"))
    )


def test_blocks_before_slimming_are_recovered_as_they_are():
    model = TimeSformer(**SIZES, attention_type="joint_space_time", slimming={"after": [1]}).eval()
    recover_tokens(model)
    video = torch.randn(1, 3, 3, 24, 40)
    _, (kept,) = model.forward_intermediates(video, [0], output_fmt="NLC")
    assert torch.equal(model(video, recover=True)[1][0], kept)


def test_only_a_slimmed_model_has_tokens_to_recover():
    with pytest.raises(ValueError, match="only a model with slimming"):
        recover_tokens(TimeSformer(**SIZES))
    with pytest.raises(ValueError, match="every must be at least 1, got every=0"):
        recover_tokens(TimeSformer(**SIZES, slimming={"after": [0]}), 0)
