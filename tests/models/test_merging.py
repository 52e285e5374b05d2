"""Token merging: against plain loops, nothing at r = 0, sizes, frames, and what it refuses."""

import copy

import pytest
import torch

from videofib.models import TimeSformer
from videofib.models.blocks import GRID, SIZES
from videofib.models.merging import TokenMerging, match, merge, merge_reference, merge_tokens

OPTIONS = dict(img_size=(24, 40), patch_size=8, num_classes=5, num_frames=3, embed_dim=16, depth=3, num_heads=2)
TYPES = ["joint_space_time", "divided_space_time", "space_only"]


@pytest.mark.parametrize("n", [2, 3, 8, 15])
@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
def test_merging_is_that_of_the_loops(n, part):
    torch.manual_seed(n)
    r = int(part * (n // 2))
    x, keys = torch.randn(3, n, 5, dtype=torch.double), torch.randn(3, n, 4, dtype=torch.double)
    sizes = torch.randint(1, 5, (3, n)).double()
    found, counts = merge(x, sizes, match(keys, r))
    assert found.shape == (3, n - r, 5)
    for b in range(3):
        expected, expected_counts = merge_reference(x[b], sizes[b], keys[b], r)
        torch.testing.assert_close(found[b], expected)
        assert torch.equal(counts[b], expected_counts)
    torch.testing.assert_close((found * counts[..., None]).sum(1), (x * sizes[..., None]).sum(1))  # nothing is lost


def test_the_gradient_of_merging_is_that_of_the_loops():
    torch.manual_seed(0)
    x, keys = torch.randn(1, 9, 4, dtype=torch.double, requires_grad=True), torch.randn(1, 9, 4, dtype=torch.double)
    sizes, weights = torch.arange(1.0, 10, dtype=torch.double)[None], torch.randn(6, 4, dtype=torch.double)
    (found,) = torch.autograd.grad((merge(x, sizes, match(keys, 3))[0][0] * weights).sum(), x)
    (expected,) = torch.autograd.grad((merge_reference(x[0], sizes[0], keys[0], 3)[0] * weights).sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("pooling", ["class_token", "mean"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_nothing_changes_where_no_tokens_merge(attention_type, pooling, qk_norm, randomize):
    model = randomize(TimeSformer(**OPTIONS, attention_type=attention_type, pooling=pooling, qk_norm=qk_norm))
    video = torch.randn(2, 3, 3, 24, 40)
    with torch.no_grad():
        plain = model(video)
        names = list(model.state_dict())
        assert torch.equal(merge_tokens(model, 0)(video), plain)
        assert list(model.state_dict()) == names
        assert not torch.allclose(merge_tokens(model, 4)(video), plain)
        assert torch.equal(merge_tokens(model, 0)(video), plain)
    assert not any(module.training for module in model.modules())


def clip_by_loops(model, video, r, proportional=True):
    """A joint or space-only model with merging, token by token: one sequence of tokens at a time, no batch."""
    pooled = []
    for x in model.embed(video):
        sizes = torch.ones(x.shape[0], dtype=x.dtype)
        prefix = model.num_prefix_tokens
        for block in model.blocks:
            y = block.norm1(x)
            q, k, v = block.attn.qkv(y).unflatten(1, (3, model.num_heads, -1)).permute(1, 2, 0, 3)
            logits = q @ k.mT / q.shape[-1] ** 0.5
            if proportional:
                logits = logits + sizes.log()
            x = x + block.attn.proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))
            left = min(r, (len(x) - prefix) // 2)
            merged, counts = merge_reference(x[prefix:], sizes[prefix:], k.mean(0)[prefix:], left)
            x, sizes = torch.cat((x[:prefix], merged)), torch.cat((sizes[:prefix], counts))
            x = x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        weights = sizes[prefix:] / sizes[prefix:].sum()
        pooled.append(x[0] if model.pooling == "class_token" else (weights[:, None] * x[prefix:]).sum(0))
    features = torch.stack(pooled)
    if model.single_frames:
        features = features.unflatten(0, (len(video), -1)).mean(1)
    return model.head(model.norm(features))


@pytest.mark.parametrize("attention_type", ["joint_space_time", "space_only"])
@pytest.mark.parametrize("pooling", ["class_token", "mean"])
@pytest.mark.parametrize("proportional", [True, False])
def test_a_model_that_merges_is_that_of_the_loops(attention_type, pooling, proportional, randomize):
    model = randomize(TimeSformer(**OPTIONS, attention_type=attention_type, pooling=pooling, num_registers=1)).double()
    video = torch.randn(2, 3, 3, 24, 40, dtype=torch.double)
    with torch.no_grad():
        found = merge_tokens(copy.deepcopy(model), 5, proportional=proportional)(video)
        torch.testing.assert_close(found, clip_by_loops(model, video, 5, proportional))


def test_identical_patches_lose_nothing_to_merging(randomize):
    """Merged tokens that count as often as their patches leave attention as it was (section 3 of the paper)."""
    for attention_type in TYPES:
        for pooling in ("class_token", "mean"):
            options = {**OPTIONS, "attention_type": attention_type, "pooling": pooling}
            model = randomize(TimeSformer(**options)).double()
            with torch.no_grad():
                model.pos_embed[:, 1:] = model.pos_embed[:, 1:2]
                if model.time_embed is not None and attention_type == "joint_space_time":
                    model.time_embed.zero_()
                video = torch.randn(2, 3, 1, 1, 1, dtype=torch.double).expand(2, 3, 3, 24, 40)
                plain = model(video)
                torch.testing.assert_close(merge_tokens(model, 6)(video), plain)
                other = merge_tokens(model, 6, proportional=False)(video)
            assert torch.allclose(other, plain) == False  # noqa: E712, as the prefix weighs more


@pytest.mark.parametrize("order", ["h w t", "t h w"])
def test_in_divided_attention_the_frames_of_a_clip_merge_alike(order):
    torch.manual_seed(0)
    t, n, d, heads = 3, 6, 4, 2
    merging = TokenMerging(2, order=order, num_prefix_tokens=1, frames=True, head_dim=5)
    frames, keys = torch.randn(2, t, n, d), torch.randn(2 * t, heads, n, 5)
    patches = frames if order == "t h w" else frames.transpose(1, 2)
    x = torch.cat((torch.randn(2, 1, d), patches.flatten(1, 2)), 1)
    y, memory = merging(x, (t, n, 1), {"attn": {"sizes": None, "keys": keys}})
    assert memory[GRID] == (t, 4, 1)
    assert torch.equal(memory["attn"]["sizes"].sum(1), torch.full((2,), 6.0))
    assert memory[SIZES].shape == (2, t * 4)
    found = y[:, 1:].unflatten(1, (t, 4) if order == "t h w" else (4, t))
    found = found if order == "t h w" else found.transpose(1, 2)
    unit = torch.nn.functional.normalize(keys.mean(1), dim=-1).unflatten(0, (2, t))
    for b in range(2):
        together = unit[b].transpose(0, 1).flatten(1)  # (n, t·5): the sum of the frames' cosines, up to a constant
        for i in range(t):
            expected, counts = merge_reference(frames[b, i], torch.ones(n), together, 2)
            torch.testing.assert_close(found[b, i], expected)
            assert torch.equal(memory["attn"]["sizes"][b], counts)


def test_no_more_than_half_of_the_tokens_merge_at_once():
    model = merge_tokens(TimeSformer(**OPTIONS, attention_type="joint_space_time"), 40).eval()
    _, tokens = model.forward_intermediates(torch.randn(1, 3, 3, 24, 40), output_fmt="NLC")
    assert [each.shape[1] for each in tokens] == [23, 12, 6]  # of 45


def test_models_without_dense_attention_and_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="keys of dense attention, and this model has fibottention"):
        merge_tokens(TimeSformer(**OPTIONS, attention_type="joint_space_time", joint_attention="fibottention"), 2)
    with pytest.raises(ValueError, match="tokens=-1"):
        TimeSformer(**OPTIONS, merging={"tokens": -1})
    with pytest.raises(ValueError, match="local_interaction='none', got 'space'"):
        TimeSformer(**OPTIONS, local_interaction="space", merging={"tokens": 2})
    with pytest.raises(ValueError, match="reduces its tokens already"):
        merge_tokens(TimeSformer(**OPTIONS, slimming={"after": [0]}), 2)


def test_blocks_without_attention_merge_nothing():
    model = TimeSformer(**OPTIONS, attention_type="joint_space_time", joint_attention=["none", "dense", "dense"])
    merge_tokens(model, 5)
    _, tokens = model.forward_intermediates(torch.randn(1, 3, 3, 24, 40), output_fmt="NLC")
    assert [each.shape[1] for each in tokens] == [45, 40, 35]
