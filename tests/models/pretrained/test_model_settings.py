"""A report calls exact only what gives the same logits: the sources' own models are asked, with the same weights."""

import functools
import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.models.pretrained.published import largest_difference
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

SMALL = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=48, depth=2, num_heads=3)
IMAGES = dict(**SMALL, num_frames=2, attention_type="space_only")


def still(images):
    """(B, C, H, W) -> a clip of two equal frames."""
    return images[:, :, None].expand(-1, -1, 2, -1, -1)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gelu_tanh():
    return nn.GELU(approximate="tanh")


SAME = {  # options of timm's ViT, and of the model here that is the same
    "class token": ({}, {}),
    "mean": (dict(global_pool="avg"), dict(pooling="mean")),
    "mean, no class token": (dict(global_pool="avg", class_token=False), dict(pooling="mean", class_token=False)),
    "class token, norm behind it": (dict(fc_norm=True), {}),
    "qk-norm": (dict(qk_norm=True), dict(qk_norm=True)),
    "layer scale": (dict(init_values=0.1), dict(layer_scale=1.0)),
    "activation by name": (dict(act_layer="gelu"), {}),
    "norms of 32 bits": (dict(norm_layer=functools.partial(timm.layers.LayerNormFp32, eps=1e-6)), {}),
}


@pytest.mark.parametrize("name", SAME)
def test_an_image_model_that_is_the_same_is_exact(name, images, randomize):
    theirs_options, ours_options = SAME[name]
    theirs = randomize(VisionTransformer(**SMALL, **theirs_options))
    ours = TimeSformer(**IMAGES, **ours_options).eval()
    assert load_pretrained(ours, theirs, strict=True).is_exact
    assert largest_difference(ours(still(images)), theirs(images)) < 1e-5


OTHER = {  # options of timm's ViT that TimeSformer does not have, and of the model here that comes closest
    "mean there, class token here": (dict(global_pool="avg"), {}),
    "class token there, mean here": ({}, dict(pooling="mean")),
    "norm in front of the mean": (dict(global_pool="avg", fc_norm=False), dict(pooling="mean")),
    "norm in front of the mean, no class token": (
        dict(global_pool="avg", fc_norm=False, class_token=False),
        dict(pooling="mean", class_token=False),
    ),
    "mean with the class token": (dict(global_pool="avg", pool_include_prefix=True), dict(pooling="mean")),
    "maximum": (dict(global_pool="max"), dict(pooling="mean")),
    "maximum and mean": (dict(global_pool="avgmax"), dict(pooling="mean")),
    "attention pooling": (dict(global_pool="map"), dict(pooling="mean")),
    "gelu approximated": (dict(act_layer=gelu_tanh), {}),
    "gelu approximated, by name": (dict(act_layer="gelu_tanh"), {}),
    "quick gelu": (dict(act_layer="quick_gelu"), {}),
    "relu": (dict(act_layer=nn.ReLU), {}),
    "epsilon": (dict(norm_layer=functools.partial(nn.LayerNorm, eps=0.1)), {}),
    "RMS norms": (dict(norm_layer=timm.layers.RmsNorm), {}),
    "norms without weights": (dict(norm_layer=functools.partial(nn.LayerNorm, elementwise_affine=False)), {}),
    "norm within attention": (dict(scale_attn_norm=True), {}),
    "norm within the MLP": (dict(scale_mlp_norm=True), {}),
    "norm of the patches": (dict(embed_norm_layer=nn.LayerNorm), {}),
    "no last norm": (dict(final_norm=False), {}),
    "no positions": (dict(pos_embed="none"), {}),
    "no positions there, sinusoids here": (dict(pos_embed="none"), dict(position="sinusoid")),
    "positions of registers": (dict(reg_tokens=9, class_token=False, global_pool="avg"), dict(num_registers=9)),
    "blocks normed behind": (dict(block_fn=ResPostBlock), {}),
    "parallel blocks": (dict(block_fn=ParallelScalingBlock), {}),
    "overlapping patches": (dict(embed_layer=lambda **options: overlapping(**options)), {}),
    "more heads": (dict(num_heads=6), {}),
    "no biases": (dict(proj_bias=False), {}),
}


def overlapping(**options):
    embed = timm.layers.PatchEmbed(**options)
    embed.proj.stride, embed.proj.padding = (8, 8), (0, 0)
    embed.proj = nn.Conv2d(3, 48, kernel_size=8, stride=6, bias=True)  # 5 x 5 patches
    embed.num_patches, embed.grid_size = 25, (5, 5)
    return embed


@pytest.mark.parametrize("name", OTHER)
def test_an_image_model_that_gives_other_logits_is_not_exact(name, images, randomize):
    theirs_options, ours_options = OTHER[name]
    theirs = randomize(VisionTransformer(**SMALL | theirs_options))
    ours = TimeSformer(**IMAGES | ours_options).eval()
    try:
        report = load_pretrained(ours, theirs)
    except CheckpointError:
        return
    assert not report.is_exact
    assert "exact" not in str(report)
    assert largest_difference(ours(still(images)), theirs(images)) > 1e-5
    with pytest.raises(CheckpointError, match="strict=True"):
        load_pretrained(ours, theirs, strict=True)


def test_positions_that_follow_the_image_differ_at_other_sizes(images, randomize):
    theirs = randomize(VisionTransformer(**SMALL, dynamic_img_size=True))
    ours = TimeSformer(**IMAGES).eval()
    report = load_pretrained(ours, theirs)
    assert report.differs == ("clips of other sizes bicubic positions there, nearest positions here",)
    assert largest_difference(ours(still(images)), theirs(images)) < 1e-5
    larger = nn.functional.interpolate(images, size=48)
    assert largest_difference(ours(still(larger)), theirs(larger)) > 1e-3


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, AveragedModel, torch.compile, lambda m: torch.compile(AveragedModel(m))]
)
def test_a_wrapper_that_changes_nothing_is_looked_through(wrap, randomize):
    theirs = randomize(VisionTransformer(**SMALL, global_pool="avg"))
    assert load_pretrained(TimeSformer(**IMAGES, pooling="mean"), wrap(theirs)).is_exact
    assert load_pretrained(TimeSformer(**IMAGES), wrap(theirs)).differs


def test_a_module_around_a_backbone_may_do_anything(images, randomize):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = VisionTransformer(**SMALL | dict(num_classes=0), act_layer=gelu_tanh)
            self.classifier = nn.Linear(48, 5)

        def forward(self, images):
            return self.classifier(self.backbone.forward_features(images).sum(1))

    theirs = randomize(Sum())
    ours = TimeSformer(**IMAGES).eval()
    report = load_pretrained(ours, theirs)
    assert report.differs == ("activation gelu approximated by tanh there, gelu here",)
    assert report.unknown == ("pooling",)
    assert torch.equal(ours.head.weight, theirs.classifier.weight)


@pytest.mark.parametrize(
    ("theirs", "ours", "differs"),
    [
        ({}, {}, ""),
        ({}, dict(norm_eps=1e-5), "norm epsilon 1e-06 there, 1e-05 here"),
        (dict(pooling="mean"), {}, "pooling the mean"),
        (
            dict(position="sinusoid"),
            dict(position="sinusoid", attention_type="space_only"),
            "attention over joint_space",
        ),
        (dict(joint_attention="fibottention"), {}, "attention {'joint': 'fibottention'"),
        (dict(joint_attention="fibottention"), dict(joint_attention="fibottention", token_order="thw"), "attention"),
    ],
)
def test_models_of_our_own_are_compared_in_all_settings(theirs, ours, differs, randomize):
    options = dict(**SMALL, num_frames=4, attention_type="joint_space_time")
    source, model = randomize(TimeSformer(**options | theirs)), TimeSformer(**options | ours).eval()
    report = load_pretrained(model, source)
    assert report.is_exact == (not differs)
    assert not differs or any(line.startswith(differs) for line in report.differs)
    clip = torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(clip), source(clip)) == (not differs)


def test_a_state_dict_is_exact_only_as_far_as_it_tells(images, randomize):
    theirs = randomize(VisionTransformer(**SMALL | dict(num_heads=6)))
    ours = TimeSformer(**IMAGES).eval()
    report = load_pretrained(ours, theirs.state_dict(), strict=True)
    assert report.fits
    assert not report.is_exact
    assert "heads" in report.unknown
    assert "exact as far as the weights tell, which do not show: heads, activation" in str(report)
    assert largest_difference(ours(still(images)), theirs(images)) > 1e-3
    with pytest.raises(CheckpointError, match="heads 6, this one 3"):
        load_pretrained(ours, theirs)


def test_a_report_says_exact_where_it_is(randomize):
    theirs = randomize(VisionTransformer(**SMALL))
    assert str(load_pretrained(TimeSformer(**IMAGES), theirs)).endswith(
        "exact: the model equals the one that the weights come from"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_must_be_rounded_are_not_exact(dtype, randomize):
    theirs = randomize(TimeSformer(**IMAGES))
    assert load_pretrained(TimeSformer(**IMAGES), theirs.to(dtype)).is_exact == (dtype != torch.float64)
    report = load_pretrained(TimeSformer(**IMAGES).to(dtype), randomize(TimeSformer(**IMAGES)))
    assert report.is_exact == (dtype == torch.float64)
    assert dtype == torch.float64 or report.differs == (f"precision float32 there, {str(dtype)[6:]} here",)


# folders


def timm_folder(folder, model, **config):
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", **config}))
    return folder


TINY = dict(embed_dim=192, depth=12, num_heads=3, num_classes=7, attention_type="space_only", num_frames=2)


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({}, ""),
        (dict(global_pool="avg"), "pooling the mean, then the last norm there"),
        (dict(act_layer="gelu_tanh"), "activation gelu approximated by tanh there"),
        (dict(global_pool="avg", fc_norm=False), "pooling the last norm, then the mean there"),
    ],
)
def test_the_arguments_in_a_timm_folder_are_compared(options, differs, tmp_path, randomize):
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", num_classes=7, **options))
    ours = TimeSformer(**TINY).eval()
    report = load_pretrained(ours, timm_folder(tmp_path, theirs, num_classes=7, model_args=options))
    assert report.is_exact == (not differs)
    assert not differs or report.differs[0].startswith(differs)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    assert (largest_difference(ours(still(image)), theirs(image)) < 1e-4) == (not differs)


def test_the_pooling_that_a_timm_folder_states_is_compared(tmp_path, randomize):
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", num_classes=7))
    folder = timm_folder(tmp_path, theirs, num_classes=7, global_pool="avg")
    assert load_pretrained(TimeSformer(**TINY, pooling="mean"), folder).differs == (
        "pooling the last norm, then the mean there, the mean, then the last norm here",
    )


@pytest.mark.parametrize(
    "options", [{"num_heads": 0}, {"act_layer": "no such"}, {"num_heads": 5}, {"norm_layer": "os.system"}]
)
def test_arguments_that_describe_no_model_are_refused(options, tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    folder = timm_folder(tmp_path, theirs, model_args=options)
    with pytest.raises(CheckpointError, match=r"config.json describes no model of timm"):
        load_pretrained(TimeSformer(**TINY), folder)


def test_arguments_that_would_read_files_or_fill_the_memory_are_not_passed_on(tmp_path, randomize):
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", num_classes=7))
    hostile = {"depth": 10**9, "checkpoint_path": "/etc/passwd", "pretrained": True, "img_size": 10**6}
    assert load_pretrained(TimeSformer(**TINY), timm_folder(tmp_path, theirs, model_args=hostile)).is_exact
