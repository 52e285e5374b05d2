"""Which tokens depend on which in a full model: exactly the pairs of the supports, chained over its layers.

Probed backwards (gradients of one token with respect to all pixels) and forwards (one patch changed, all tokens
compared), for every setting of Fibottention, at odd numbers of tokens. There is no tolerance: a pair outside has a
gradient of 0, and a token out of reach keeps every bit.
"""

import pytest
import torch
from einops import rearrange

from tests.pairs import every_pair
from videofib.attention.backends import MASKINGS
from videofib.attention.support import HEAD_ORDERS
from videofib.attention.wythoff import VARIANTS
from videofib.models import TimeSformer
from videofib.models.timesformer import TOKEN_ORDERS

GRIDS = {"divided_space_time": (7, 3, 5), "joint_space_time": (3, 3, 5), "space_only": (1, 5, 9)}  # t, h, w: odd
NARROW = {"w_min": 2, "w_max": 4}
PREFIXES = ((1, 0), (0, 0), (1, 2))  # class token and registers
HEADS = 3


def build(attention_type, prefix, token_order, **fibottention):
    _, height, width = GRIDS[attention_type]
    return TimeSformer(
        img_size=(2 * height, 2 * width), patch_size=2, in_chans=1, num_classes=2, num_frames=GRIDS[attention_type][0],
        embed_dim=24, depth=1 if any(prefix) else 2, num_heads=HEADS, attention_type=attention_type,
        class_token=bool(prefix[0]), num_registers=prefix[1], pooling="mean", token_order=token_order,
        space_attention="fibottention", time_attention="fibottention", joint_attention="fibottention",
        mixer_options={"fibottention": fibottention},
    )  # fmt: skip


def only_logits_depend_on_the_input(model):
    """Give every attention values that do not depend on its input, so that only queries and keys carry information."""
    generator = torch.Generator().manual_seed(2)

    def constant_values(layer, inputs, out):
        values = torch.randn(out.shape[-2], out.shape[-1] // 3, generator=generator, dtype=out.dtype)
        generator.manual_seed(2)
        return torch.cat((out[..., : -values.shape[1]], values.expand(*out.shape[:-2], -1, -1)), dim=-1)

    for name, layer in model.named_modules():
        if name.endswith("qkv"):
            layer.register_forward_hook(constant_values)


def chained_reach(model, attention_type):
    """bool, (P+N, P+N): whether a token (row) may depend on another (column) through all layers; patches as (t h w)."""
    t, h, w = GRIDS[attention_type]
    num_prefix, n = model.num_prefix_tokens, t * h * w
    total = torch.eye(num_prefix + n, dtype=torch.bool)
    for block in model.blocks:
        if attention_type == "divided_space_time":
            step = divided_step(block, num_prefix, t, h * w)
        else:
            step = block.attn.support_for(n).to_mask().any(0)
            index = rearrange(torch.arange(n).reshape(t, h, w), f"t h w -> ({model.order})")
            index = torch.cat((torch.arange(num_prefix), num_prefix + index))
            step[index[:, None], index] = step.clone()
        step |= torch.eye(len(step), dtype=torch.bool)  # the residual
        total = step.float() @ total.float() > 0
    return total


def divided_step(block, num_prefix, t, n):
    same_patch, same_time = torch.eye(n, dtype=torch.bool), torch.eye(t, dtype=torch.bool)
    over_time = block.temporal_attn.support_for(t).to_mask().any(0) | same_time
    in_frame = block.attn.support_for(n).to_mask().any(0)
    time_step = torch.eye(num_prefix + t * n, dtype=torch.bool)
    time_step[num_prefix:, num_prefix:] = torch.kron(over_time, same_patch)
    space_step = torch.ones(num_prefix + t * n, num_prefix + t * n, dtype=torch.bool)  # the prefix sees and is seen
    space_step[num_prefix:, num_prefix:] = torch.kron(same_time, in_frame[num_prefix:, num_prefix:] | same_patch)
    return space_step.float() @ time_step.float() > 0


def tokens(model, video, attention_type):
    """What leaves the last block: (P+N, D), patches as (t h w)."""
    seen = []
    handle = model.blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out[0][0]))
    model(video)
    handle.remove()
    t, h, w = GRIDS[attention_type]
    prefix, patches = seen[0].split((model.num_prefix_tokens, t * h * w))
    return torch.cat((prefix, rearrange(patches, f"({model.order}) d -> (t h w) d", t=t, h=h, w=w)))


@pytest.mark.parametrize(
    ("attention_type", "prefix", "token_order", "windows"), every_pair(GRIDS, PREFIXES, TOKEN_ORDERS, ({}, NARROW))
)
def test_any_prefix_order_of_tokens_and_window(attention_type, prefix, token_order, windows, randomize):
    check_reach(randomize(build(attention_type, prefix, token_order, **windows)), attention_type)


@pytest.mark.parametrize(
    ("attention_type", "variant", "head_order", "masking"), every_pair(GRIDS, VARIANTS, HEAD_ORDERS, MASKINGS)
)
def test_any_support_and_masking(attention_type, variant, head_order, masking, randomize):
    settings = dict(NARROW, variant=variant, head_order=head_order, masking=masking)
    model = randomize(build(attention_type, (0, 0), "hwt", **settings))
    if masking == "zero_logit":  # which by definition gives every value weight
        only_logits_depend_on_the_input(model)
    check_reach(model, attention_type)


def check_reach(model, attention_type):
    """Pairs outside the supports have no gradient and no effect, all others have both."""
    reach = chained_reach(model, attention_type)
    assert not reach.all()
    num_prefix, n = model.num_prefix_tokens, len(reach) - model.num_prefix_tokens
    t, h, w = GRIDS[attention_type]
    video = torch.randn(1, 1, t, 2 * h, 2 * w, generator=torch.Generator().manual_seed(1), requires_grad=True)

    out = tokens(model, video, attention_type)
    for query in {0, num_prefix, num_prefix + n // 2, num_prefix + n - 1}:
        (gradient,) = torch.autograd.grad(out[query].square().sum(), video, retain_graph=True)
        depends = rearrange(gradient[0, 0], "t (h p) (w q) -> (t h w) (p q)", p=2, q=2).abs().sum(1) > 0
        assert torch.equal(depends, reach[query, num_prefix:]), query

    for key in {0, n // 2, n - 1}:
        changed = video.detach().clone()
        frame, row, column = key // (h * w), key // w % h, key % w
        changed[0, 0, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3.0
        with torch.no_grad():
            moved = (tokens(model, changed, attention_type) != out).any(1)
        assert not (moved & ~reach[:, num_prefix + key]).any(), key
        assert moved[num_prefix + key]
