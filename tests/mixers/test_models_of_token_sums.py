"""Models whose mixers are sums over tokens: every kind of attention, both orders of tokens, compilation, pooling."""

import pytest
import torch

from videofib.models.timesformer import TimeSformer

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3, drop_path_rate=0.0
)
CLIP = (2, 3, 4, 16, 24)
MIXERS = ("xcit", "tost")
TYPES = ("divided_space_time", "joint_space_time", "space_only")


def built(mixer, **options):
    torch.manual_seed(0)
    attention = dict(space_attention=mixer, time_attention=mixer, joint_attention=mixer)
    model = TimeSformer(**TINY | attention | {"pooling": "class_attention"} | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize("mixer", MIXERS)
def test_both_orders_of_tokens_are_the_same_model(mixer):
    video = torch.randn(CLIP)
    models = [built(mixer, attention_type="joint_space_time", token_order=order) for order in ("hwt", "thw")]
    torch.testing.assert_close(models[0].eval()(video), models[1].eval()(video))


def gradients(model, video, compiled=False):
    forward = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    forward(video).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("attention_type", TYPES)
def test_every_parameter_learns_also_with_recomputation(mixer, attention_type):
    video, options = torch.randn(CLIP), dict(attention_type=attention_type)
    expected = gradients(built(mixer, **options).train(), video)
    assert not [name for name, gradient in expected.items() if gradient is None or not gradient.any()]
    found = gradients(built(mixer, **options, gradient_checkpointing=True).train(), video)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_compilation_changes_nothing(mixer):
    video, options = torch.randn(CLIP), dict(attention_type="joint_space_time", depth=1)
    expected = gradients(built(mixer, **options).train(), video)
    found = gradients(built(mixer, **options).train(), video, compiled=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_class_token_in_the_blocks_is_refused(mixer):
    with pytest.raises(ValueError, match=r"does not show the patches to a class token.*'class_attention'"):
        built(mixer, attention_type="joint_space_time", pooling="class_token")
    model = built(mixer, attention_type="joint_space_time", pooling="mean")
    name = {"xcit": "temperature", "tost": "temp"}[mixer]
    assert f"blocks.1.attn.{name}" in model.no_weight_decay()
