"""The block of BiXT: both sides with norms and MLPs of their own, the latents attend to themselves, too."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videofib.mixers import LayerSpec
from videofib.mixers.bixt import CrossAttention
from videofib.mixers.dense_attention import DenseAttention
from videofib.models.blocks import Block, BlockSpec
from videofib.models.latent_block import CrossBlock, LatentBlock

LATENTS, PATCHES = 5, 14


def block(dim=12, dim_patches=12, *, one_sided=False, layer_scale=None, drop_path=0.0):
    latents, patches = (BlockSpec(width, 4.0, 0.0, 1e-6, layer_scale) for width in (dim, dim_patches))
    own = DenseAttention(LayerSpec(dim=dim, num_heads=3, num_prefix_tokens=0, grid=(1, 1, LATENTS)))
    attn = CrossAttention(dim, dim_patches, 12, 3, one_sided=one_sided)
    made = LatentBlock(CrossBlock(attn, latents, patches, drop_path), Block(own, latents, drop_path))
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.double()


def tokens(dim=12, dim_patches=12, batch=2):
    return torch.randn(batch, LATENTS, dim).double(), torch.randn(2, PATCHES, dim_patches).double()


def step_by_step(made, latents, patches):
    """The layers of a block without layer scale in the order of the paper."""
    cross, own = made.cross_attention_latents_token, made.self_attention_latents
    for_latents, for_patches = cross.attn(cross.norm1_lat(latents), cross.norm1_pat(patches))
    latents, patches = latents + for_latents, patches + for_patches
    latents = latents + cross.mlp_lat(cross.norm2_lat(latents))
    patches = patches + cross.mlp_pat(cross.norm2_pat(patches))
    q, k, v = own.attn.qkv(own.norm1(latents)).unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    latents = latents + own.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    return latents + own.mlp(own.norm2(latents), {})[0], patches


@pytest.mark.parametrize("dims", [(12, 12), (12, 20)])
def test_latents_pass_two_mlps_and_patches_one(dims):
    made, inputs = block(*dims), tokens(*dims)
    torch.testing.assert_close(made(*inputs), step_by_step(made, *inputs))


def test_latents_of_the_first_block_serve_every_clip():
    made, (latents, patches) = block(), tokens(batch=1)
    torch.testing.assert_close(made(latents, patches), made(latents.repeat(2, 1, 1), patches))


def test_layer_scale_multiplies_every_branch():
    made, inputs = block(layer_scale=0.0), tokens()
    for name, parameter in made.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(made(*inputs), inputs)
    assert sum(name.endswith("gamma") for name, _ in made.named_parameters()) == 6


def test_all_branches_of_a_clip_may_be_skipped():
    made, inputs = block(drop_path=0.9999), tokens()
    torch.testing.assert_close(made.train()(*inputs), inputs)
    torch.testing.assert_close(made.eval()(*inputs), block()(*inputs))


def test_the_last_block_leaves_the_patches_alone_and_has_no_parameters_for_them():
    made, (latents, patches) = block(one_sided=True), tokens()
    found, handed_on = made(latents, patches)
    assert handed_on is patches
    found.square().sum().backward()
    names = dict(made.named_parameters())
    assert all(parameter.grad is not None for parameter in names.values())
    assert [name for name in names if "pat" in name.removeprefix("cross_attention_latents_token.")] == [
        "cross_attention_latents_token.norm1_pat.weight",
        "cross_attention_latents_token.norm1_pat.bias",
        "cross_attention_latents_token.attn.rv_patches.weight",
        "cross_attention_latents_token.attn.rv_patches.bias",
    ]


def test_the_cost_is_linear_in_the_patches():
    made, inputs = block(), tokens()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        made(*inputs)
    batch, dim, latents, patches = 2, 12, LATENTS, PATCHES
    # with logits once for each direction, 4 products of all pairs; the paper counts them once, which makes 3
    each = 11 * patches * dim**2 + 4 * latents * patches * dim + 23 * latents * dim**2 + 2 * latents**2 * dim
    assert counter.get_total_flops() // 2 == batch * each
