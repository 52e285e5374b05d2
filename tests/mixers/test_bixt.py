"""Bidirectional cross-attention equals a matrix of logits that is normalised along rows and along columns."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from videofib.mixers import MIXERS, LayerSpec, MixerChoice
from videofib.mixers.bixt import Bixt, CrossAttention
from videofib.models import TimeSformer

LAYER = LayerSpec(dim=12, num_heads=3, num_prefix_tokens=4, grid=(3, 1, 5))
WIDTHS = [(16, 24, 12, 3), (6, 6, 6, 1), (5, 7, 8, 4)]  # of latents, patches, attention; heads


def randomized(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def by_one_matrix(attn, latents, patches):
    """The updates of latents and patches, head by head; both directions read the same logits."""
    width = attn.proj_lat.in_features
    size = width // attn.num_heads
    references, values = attn.rv_latents(latents).split(width, dim=-1)
    patch_references, patch_values = attn.rv_patches(patches).split(width, dim=-1)
    for_latents, for_patches = [], []
    for head in range(attn.num_heads):
        own = slice(head * size, (head + 1) * size)
        logits = references[..., own] @ patch_references[..., own].mT / size**0.5  # (B, M, N)
        for_latents.append(logits.exp() / logits.exp().sum(2, keepdim=True) @ patch_values[..., own])
        for_patches.append((logits.exp() / logits.exp().sum(1, keepdim=True)).mT @ values[..., own])
    return attn.proj_lat(torch.cat(for_latents, -1)), attn.proj_pat(torch.cat(for_patches, -1))


def gradients(outputs, inputs, module):
    probe = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in outputs)
    return torch.autograd.grad(probe, [*inputs, *module.parameters()])


@pytest.mark.parametrize("sizes", WIDTHS)
@pytest.mark.parametrize("bias", [True, False])
def test_both_directions_share_one_matrix_of_logits(sizes, bias):
    attn = randomized(CrossAttention(*sizes, rv_bias=bias))
    latents, patches = (
        torch.randn(2, count, width, dtype=torch.float64, requires_grad=True)
        for count, width in zip((4, 7), sizes[:2], strict=True)
    )
    found, expected = attn(latents, patches), by_one_matrix(attn, latents, patches)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        gradients(found, (latents, patches), attn), gradients(expected, (latents, patches), attn)
    )


def test_one_sided_attention_updates_the_latents_alone():
    attn, one_sided = (randomized(CrossAttention(16, 24, 12, 3, one_sided=one_sided)) for one_sided in (False, True))
    state = attn.state_dict()
    state |= {f"r_latents.{name}": state.pop(f"rv_latents.{name}")[:12] for name in ("weight", "bias")}
    one_sided.load_state_dict({name: x for name, x in state.items() if not name.startswith("proj_pat")})
    latents, patches = torch.randn(2, 4, 16).double(), torch.randn(2, 7, 24).double()
    found, nothing = one_sided(latents, patches)
    assert nothing is None
    torch.testing.assert_close(found, attn(latents, patches)[0])


def test_latents_of_the_first_layer_serve_every_clip():
    attn = randomized(CrossAttention(16, 24, 12, 3))
    latents, patches = torch.randn(1, 4, 16).double(), torch.randn(3, 7, 24).double()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # which does not broadcast
        found = attn(latents, patches)
    torch.testing.assert_close(found, attn(latents.repeat(3, 1, 1), patches))


def test_the_mixer_takes_prefix_tokens_for_latents():
    mixer = randomized(Bixt(LAYER))
    x, state = torch.randn(2, 4 + 15, 12).double(), object()
    y, handed_on = mixer(x, LAYER.grid, state)
    torch.testing.assert_close(y, torch.cat(by_one_matrix(mixer, x[:, :4], x[:, 4:]), dim=1))
    assert handed_on is state


def test_the_order_of_patches_does_not_matter():
    mixer = randomized(Bixt(LAYER))
    x, order = torch.randn(2, 4 + 15, 12).double(), torch.cat((torch.arange(4), 4 + torch.randperm(15)))
    torch.testing.assert_close(mixer(x[:, order], LAYER.grid)[0], mixer(x, LAYER.grid)[0][:, order])


def test_prefix_tokens_see_patches_only_and_patches_the_prefix_only():
    mixer = randomized(Bixt(dataclasses.replace(LAYER, num_prefix_tokens=2, grid=(1, 1, 3))))
    x = torch.randn(1, 5, 12).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: mixer(x, (1, 1, 3))[0], x)  # (1, 5, 12, 1, 5, 12)
    seen = jacobian.abs().sum((0, 2, 3, 5)) > 1e-12
    # its own reference is the query of a token, so that every token sees itself
    assert seen.tolist() == [
        [True, False, True, True, True],
        [False, True, True, True, True],
        [True, True, True, False, False],
        [True, True, False, True, False],
        [True, True, False, False, True],
    ]


def test_dropout_of_attention_is_for_training():
    mixer = randomized(Bixt(dataclasses.replace(LAYER, attn_drop=0.5, proj_drop=0.5)))
    plain = randomized(Bixt(LAYER))
    x = torch.randn(2, 4 + 15, 12).double()
    expected = plain(x, LAYER.grid)[0]
    torch.testing.assert_close(mixer.eval()(x, LAYER.grid)[0], expected)
    assert not torch.allclose(mixer.train()(x, LAYER.grid)[0], expected)


def test_initial_values_are_the_published_ones():
    attn = CrossAttention(16, 24, 12, 3)
    attn.reset_parameters()
    for name, parameter in attn.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            limit = (6 / sum(parameter.shape)) ** 0.5  # of Xavier's uniform distribution
            assert 0.9 * limit < parameter.abs().max() <= limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_heads=5), "got 12 and num_heads=5"),
        (dict(num_prefix_tokens=0), "num_prefix_tokens=0; give the model"),
        (dict(qk_norm=1e-6), "qk_norm=1e-06; leave"),
    ],
)
def test_layers_that_it_does_not_serve_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Bixt(dataclasses.replace(LAYER, **changes))


def test_attention_over_time_has_no_prefix_and_is_refused():
    choice = MixerChoice({"time": "bixt"}, {})
    with pytest.raises(ValueError, match="time_attention='bixt' mixes through prefix tokens"):
        choice.build("time", dataclasses.replace(LAYER, num_prefix_tokens=0))


@pytest.mark.parametrize(
    ("kind", "attention_type"),
    [("space", "divided_space_time"), ("joint", "joint_space_time"), ("space", "space_only")],
)
def test_models_use_every_parameter(kind, attention_type):
    torch.manual_seed(0)
    model = TimeSformer(
        **dict(img_size=(16, 24), patch_size=8, num_classes=5, num_frames=3, embed_dim=8, depth=2, num_heads=2),
        **{"attention_type": attention_type, f"{kind}_attention": "bixt"},
        num_registers=2,
        gradient_checkpointing=True,
    )
    torch.nn.init.normal_(model.head.weight)
    model(torch.randn(2, 3, 3, 16, 24)).square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert isinstance(model.blocks[0].attn, MIXERS["bixt"].build)
