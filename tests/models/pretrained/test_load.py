"""Loading weights: the report names what was loaded, resized, initialised and left unused."""

import argparse
import json

import pytest
import timm
import torch
from pytorchvideo.models.x3d import create_x3d
from safetensors.torch import save_file
from torch import nn
from transformers import TimesformerConfig, TimesformerForVideoClassification

from tests.models.pretrained.published import PUBLISHED, official
from videofib.checkpoint.file import CheckpointError, ModelDescription, Position, TrainingState, load_weights
from videofib.checkpoint.manager import CheckpointManager
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.weight_files import read_weights


@pytest.fixture
def published(randomize, tmp_path):
    """A model of the published grids, and its checkpoint file."""
    model = randomize(TimeSformer(**PUBLISHED))
    torch.save(official(model), tmp_path / "TimeSformer_divST_8x32_224.pyth")
    return model, tmp_path / "TimeSformer_divST_8x32_224.pyth"


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model.", "_orig_mod."])
def test_a_checkpoint_loads_with_any_wrapper_prefix(prefix, published):
    model, file = published
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    for content in (state, {"model_state": state, "epoch": 3}, {"model": state, "args": argparse.Namespace(lr=0.1)}):
        torch.save(content, file)
        ours = TimeSformer(**PUBLISHED)
        report = load_pretrained(ours, file, strict=True)
        assert len(report.loaded) == len(model.state_dict())
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "resized"),
    [
        (dict(num_frames=16, img_size=448), {"pos_embed": "1x197x24 -> 1x785x24", "time_embed": "1x8x24 -> 1x16x24"}),
        (dict(num_frames=96), {"time_embed": "1x8x24 -> 1x96x24"}),
        (dict(img_size=(224, 336)), {"pos_embed": "1x197x24 -> 1x295x24"}),
        (
            dict(tubelet_size=2),
            {"patch_embed.proj.weight": "24x3x16x16 -> 24x3x2x16x16", "time_embed": "1x8x24 -> 1x4"},
        ),
        (
            dict(patch_size=14),
            {"patch_embed.proj.weight": "24x3x16x16 -> 24x3x14x14", "pos_embed": "1x197x24 -> 1x257"},
        ),
    ],
)
def test_another_size_resizes_exactly_the_embeddings_that_depend_on_it(change, resized, published, capsys):
    model, file = published
    ours = TimeSformer(**PUBLISHED | change)
    report = load_pretrained(ours, file)
    assert report.resized.keys() == resized.keys()
    for name, shapes in resized.items():
        assert report.resized[name].startswith(shapes)
    assert not report.initialised
    assert not report.unused
    assert len(report.loaded) == len(model.state_dict()) - len(resized)
    assert not capsys.readouterr().out  # printing the report is the caller's choice
    size = ours.patch_embed.grid_size
    clip = torch.randn(1, 3, 8, size[0] * ours.patch_embed.patch_size, size[1] * ours.patch_embed.patch_size)
    assert torch.isfinite(ours(clip)).all()


def test_positions_and_times_keep_their_order_when_resized(published):
    model, file = published
    with torch.no_grad():  # rows that rise, frames that rise
        model.pos_embed[0, 1:] = torch.arange(14.0).repeat_interleave(14)[:, None]
        model.pos_embed[0, 0] = -1
        model.time_embed[0] = torch.arange(8.0)[:, None]
    torch.save(official(model), file)
    ours = TimeSformer(**PUBLISHED | dict(img_size=448, num_frames=16))
    load_pretrained(ours, file, position_resize="nearest", time_resize="linear")
    assert (ours.pos_embed[0, 0] == -1).all()
    assert torch.equal(ours.pos_embed[0, 1:, 5], torch.arange(14.0).repeat_interleave(56))
    assert ours.time_embed[0, :4, 5].tolist() == [0, 0.25, 0.75, 1.25]
    load_pretrained(ours, file, position_resize="bicubic", time_resize="nearest")
    rows = ours.pos_embed[0, 1:, 5].reshape(28, 28)
    torch.testing.assert_close(rows, rows[:, :1].expand(28, 28))
    assert (rows[:, 0].diff() > 0).all()
    assert torch.equal(ours.time_embed[0, :, 5], torch.arange(8.0).repeat_interleave(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_resized_in_32_bits_or_more(dtype, published):
    model, file = published
    torch.save(official(model.to(dtype)), file)
    ours = TimeSformer(**PUBLISHED | dict(img_size=448, num_frames=16, tubelet_size=2, patch_size=14))
    report = load_pretrained(ours, file)
    assert report.resized.keys() == {"pos_embed", "patch_embed.proj.weight"}
    again = TimeSformer(**PUBLISHED | dict(img_size=448, num_frames=16, tubelet_size=2, patch_size=14))
    load_pretrained(again, {name: tensor.double() for name, tensor in model.state_dict().items()})
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, again.state_dict()[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (2, 4)])
def test_still_frames_keep_their_tokens_when_tubelets_change(old, new, randomize):
    source = randomize(TimeSformer(**PUBLISHED, tubelet_size=old))
    ours = TimeSformer(**PUBLISHED, tubelet_size=new)
    load_pretrained(ours, source.state_dict())
    still = torch.randn(1, 3, 1, 224, 224).expand(-1, -1, 8, -1, -1)
    torch.testing.assert_close(
        ours.patch_embed(still)[:, 0], source.patch_embed(still)[:, 0], atol=1e-3, rtol=1e-5
    )  # sums of 768 products, in another order


def test_temporal_attention_starts_as_a_copy_of_spatial_attention_that_adds_nothing(randomize):
    image = randomize(timm.create_model("vit_tiny_patch16_224", embed_dim=24, depth=2, num_heads=3))
    ours = randomize(TimeSformer(**PUBLISHED), seed=1)
    report = load_pretrained(ours, image)
    for block in ours.blocks:
        assert not block.temporal_fc.weight.any()
        assert not block.temporal_fc.bias.any()
        for name, tensor in block.attn.state_dict().items():
            assert torch.equal(block.temporal_attn.state_dict()[name], tensor)
        assert torch.equal(block.temporal_norm1.weight, block.norm1.weight)
    assert report.layout == "timm ViT"
    assert report.unused.keys() == {"head.weight", "head.bias"}
    added = {"time_embed", "head.weight", "head.bias"}
    added |= {name for name in ours.state_dict() if ".temporal_" in name}
    assert report.initialised.keys() == added
    assert "newly initialised: blocks.*.temporal_attn.qkv.weight (2): as attn.qkv.weight" in str(report)
    assert "unused: head.weight: 1000x24, another number of classes" in str(report)
    assert set(report.untrained) == {"time_embed", "head.weight", "head.bias"}


def test_an_image_model_of_another_size_without_a_class_token_position(randomize):
    """DINOv2's 37x37 positions, registers, no position of the class token; here 14x14 and no class token."""
    image = randomize(timm.create_model("vit_small_patch14_reg4_dinov2", embed_dim=24, depth=2, num_heads=3))
    options = PUBLISHED | dict(img_size=196, patch_size=14, layer_scale=1.0, num_registers=4)
    ours = TimeSformer(**options)
    report = load_pretrained(ours, image)
    assert report.resized == {
        "pos_embed": "1x1369x24 -> 1x197x24, bicubic from 37x37 to 14x14, zero for the class token"
    }
    assert not ours.pos_embed[:, 0].any()
    bare = TimeSformer(**options | dict(class_token=False, pooling="mean"))
    report = load_pretrained(bare, image)
    assert "cls_token" in report.unused
    assert torch.equal(bare.pos_embed, ours.pos_embed[:, 1:])


def test_a_second_prefix_token_is_dropped_and_reported(randomize):
    image = randomize(timm.create_model("deit_tiny_distilled_patch16_224", embed_dim=24, depth=2, num_heads=3))
    ours = TimeSformer(**PUBLISHED)
    report = load_pretrained(ours, image)
    assert report.resized == {"pos_embed": "1x198x24 -> 1x197x24, 1 prefix position(s) dropped"}
    assert torch.equal(ours.pos_embed[:, 0], image.pos_embed[:, 0])
    assert torch.equal(ours.pos_embed[:, 1:], image.pos_embed[:, 2:])
    assert {"dist_token", "head_dist.weight"} <= report.unused.keys()
    report = load_pretrained(TimeSformer(**PUBLISHED | dict(img_size=112)), image)
    assert report.resized["pos_embed"].endswith("bicubic from 14x14 to 7x7, 1 prefix position(s) dropped")


def test_the_config_of_a_timm_folder_is_compared(tmp_path):
    image = timm.create_model("vit_tiny_patch16_224")
    save_file(image.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 1000}))
    options = dict(embed_dim=192, depth=12, num_heads=3, num_classes=1000, attention_type="space_only")
    assert load_pretrained(TimeSformer(**options), tmp_path, strict=True).is_exact
    with pytest.raises(CheckpointError, match=r"heads 3, this one 6"):
        load_pretrained(TimeSformer(**options | dict(num_heads=6)), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_clip_quickgelu_224"}))
    with pytest.raises(CheckpointError, match=r"activation quick_gelu, this one gelu"):
        load_pretrained(TimeSformer(**options | dict(num_heads=12)), tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch16_clip_quickgelu_224", "activation quick_gelu"),
        ("vit_small_patch16_rope_224", "has blocks of Eva, this one pre-norm"),
    ],
)
def test_an_image_model_with_other_blocks_is_refused(name, message):
    image = timm.create_model(name, img_size=224, embed_dim=24, depth=2, num_heads=3)
    ours = TimeSformer(**PUBLISHED, pre_norm=True)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(ours, image)


def test_settings_that_differ_are_reported(randomize):
    clip = randomize(timm.create_model("vit_base_patch16_clip_224", embed_dim=24, depth=2, num_heads=3, num_classes=5))
    ours = TimeSformer(**PUBLISHED, attention_type="joint_space_time", joint_attention="fibottention")
    report = load_pretrained(ours, clip)
    assert report.differs[:2] == tuple(
        f"{norms} 1e-05 there, 1e-06 here" for norms in ("norm epsilon", "last norm's epsilon")
    )
    assert report.differs[2].startswith("attention dense there, {'joint': 'fibottention'")
    assert {"norm_pre.weight", "norm_pre.bias"} <= report.unused.keys()


def test_missing_qkv_biases_become_zero(randomize):
    ours = TimeSformer(**PUBLISHED)
    state = {name: t for name, t in randomize(TimeSformer(**PUBLISHED)).state_dict().items() if "qkv.bias" not in name}
    report = load_pretrained(ours, state)
    assert report.initialised.keys() == {f"blocks.{i}.{a}.qkv.bias" for i in (0, 1) for a in ("attn", "temporal_attn")}
    assert not ours.blocks[1].attn.qkv.bias.any()


def test_the_moving_average_in_our_own_checkpoints_is_loaded(tmp_path, randomize):
    model = randomize(TimeSformer(**PUBLISHED))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ema = randomize(TimeSformer(**PUBLISHED), seed=1)
    for average in (None, ema):
        state = TrainingState(model, optimizer, ema=average)
        file = CheckpointManager(tmp_path, state, ModelDescription("MODEL: {NUM_CLASSES: 5}")).save(Position(3))
        weights = read_weights(file)
        assert (weights.epoch, weights.settings) == (3, "MODEL: {NUM_CLASSES: 5}")
        ours = TimeSformer(**PUBLISHED)
        load_pretrained(ours, weights, strict=True)
        assert torch.equal(ours.head.weight, (average or model).head.weight)


NAMES = ("archery", "bowling", "crawling", "diving", "eating")


def hugging_face(names, folder, randomize):
    """A model of transformers with classes of these names, and the folder that holds it."""
    sizes = dict(image_size=32, patch_size=16, num_frames=2, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    sizes |= dict(intermediate_size=96)
    labels = dict(enumerate(names))
    config = TimesformerConfig(**sizes, id2label=labels, label2id={name: i for i, name in labels.items()})
    model = randomize(TimesformerForVideoClassification(config))
    model.save_pretrained(folder)
    return model


TINY = dict(img_size=32, patch_size=16, num_frames=2, embed_dim=24, depth=1, num_heads=2, norm_eps=1e-6)


@pytest.mark.parametrize("wanted", [["eating", "archery"], ["eating", "diving", "crawling", "bowling", "archery"]])
def test_the_rows_of_a_classifier_are_found_by_name(wanted, tmp_path, randomize):
    theirs = hugging_face(NAMES, tmp_path, randomize)
    ours = TimeSformer(**TINY, num_classes=len(wanted)).eval()
    report = load_pretrained(ours, tmp_path, class_names=wanted)
    video = torch.randn(2, 3, 2, 32, 32)
    logits = theirs(video.transpose(1, 2)).logits[:, [NAMES.index(name) for name in wanted]]
    torch.testing.assert_close(ours(video), logits)
    size = len(wanted)
    assert report.resized["head.weight"] == f"5x24 -> {size}x24, the rows of the model's classes, by name"
    assert not report.is_exact
    with pytest.raises(CheckpointError, match="strict=True"):
        load_pretrained(ours, tmp_path, class_names=wanted, strict=True)


def test_a_classifier_of_other_classes_is_not_kept_because_its_size_fits(tmp_path, randomize):
    hugging_face(NAMES, tmp_path, randomize)
    ours = TimeSformer(**TINY, num_classes=5)
    before = ours.head.weight.clone()
    report = load_pretrained(ours, tmp_path, class_names=[*NAMES[:4], "fencing"])
    assert torch.equal(ours.head.weight, before)
    assert report.unused["head.weight"].startswith("5x24, for other classes: 'fencing' is not among the classes")
    assert report.untrained == ("head.weight", "head.bias")
    for names in (NAMES, None):
        assert load_pretrained(ours, tmp_path, class_names=names).is_exact


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (NAMES, NAMES),
        ([f"LABEL_{i}" for i in range(5)], None),  # what transformers writes where there are no names
        (["crane", "bowling", "crane", "diving", "eating"], None),  # as in ImageNet: a bird and a machine
        (NAMES[:4], None),
        ([*NAMES[:4], 7], None),
        ("text", None),
    ],
)
def test_labels_of_hugging_face_are_names_only_if_they_name_every_output(labels, expected, tmp_path, randomize):
    hugging_face(NAMES, tmp_path, randomize)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = labels if isinstance(labels, str) else {str(i): name for i, name in enumerate(labels)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_weights(tmp_path).classes == expected


@pytest.mark.parametrize("classes", ["text", [1, 2], ["a", "a"], {"a": 1}, 5])
def test_classes_that_are_not_names_are_damage(classes, tmp_path, randomize):
    model = randomize(TimeSformer(**PUBLISHED))
    state = TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    file = CheckpointManager(tmp_path, state, ModelDescription(classes=["a"] * 2)).save(Position(1))
    content = torch.load(file, weights_only=True)
    torch.save({**content, "classes": classes}, file)
    with pytest.raises(CheckpointError, match=r"00001\.pyth is damaged: its classes (are not|have)"):
        read_weights(file)
    with pytest.raises(CheckpointError, match=r"00001\.pyth is damaged: its classes (are not|have)"):
        CheckpointManager(tmp_path, state, ModelDescription(classes=["a", "b"])).resume()


def test_strict_refuses_weights_that_do_not_fit_as_they_are(published):
    _, file = published
    ours = TimeSformer(**PUBLISHED | dict(num_frames=16))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"strict=True .*\n.*time_embed: 1x8x24 -> 1x16x24"):
        load_pretrained(ours, file, strict=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("change", [dict(position_resize="linear"), dict(time_resize="bicubic")])
def test_an_unknown_resize_mode_is_named(change, published):
    model, file = published
    with pytest.raises(ValueError, match=f"resizing '{next(iter(change.values()))}'; known: "):
        load_pretrained(model, file, **change)


def test_other_models_load_weights_under_their_own_names():
    source, model = create_x3d(model_num_class=400), create_x3d(model_num_class=5)
    report = load_pretrained(model, {f"module.{name}": tensor for name, tensor in source.state_dict().items()})
    assert report.initialised.keys() == {"blocks.5.proj.weight", "blocks.5.proj.bias"}
    assert report.unused.keys() == report.initialised.keys()
    for name, tensor in source.state_dict().items():
        assert name in report.unused or torch.equal(model.state_dict()[name], tensor)
    with pytest.raises(CheckpointError, match="another model"):
        load_pretrained(model, nn.Linear(3, 3))


@pytest.mark.parametrize("options", [{}, dict(position="sinusoid"), dict(space_attention="fibottention")])
def test_a_model_on_the_meta_device_is_refused(options, randomize):
    source = randomize(TimeSformer(**PUBLISHED, **options))
    with torch.device("meta"):
        empty = TimeSformer(**PUBLISHED, **options)
    with pytest.raises(CheckpointError, match=r"TimeSformer cannot be loaded into a model on the meta device"):
        load_pretrained(empty, source)
    with pytest.raises(CheckpointError, match=r"file.pyth cannot be loaded into a model on the meta device"):
        load_weights(empty, source.state_dict(), "file.pyth")


def test_a_model_partly_on_the_meta_device_is_refused(randomize):
    source, ours = randomize(TimeSformer(**PUBLISHED)), TimeSformer(**PUBLISHED)
    before = ours.norm.weight.clone()
    ours.head.to("meta")
    with pytest.raises(CheckpointError, match=r"no memory \(head.weight, head.bias\)"):
        load_pretrained(ours, source)
    assert torch.equal(ours.norm.weight, before)


@pytest.mark.parametrize("options", [{}, dict(position="sinusoid"), dict(space_attention="fibottention")])
@pytest.mark.parametrize("load", ["load_pretrained", "load_state_dict", "assign"])
def test_a_model_that_got_memory_later_is_the_same(load, options, randomize):
    """The fixed positions are in no weights; where memory is new, they are arbitrary."""
    source = randomize(TimeSformer(**PUBLISHED, **options))
    with torch.device("meta"):
        ours = TimeSformer(**PUBLISHED, **options).eval()
    if load == "assign":
        ours.load_state_dict(source.state_dict(), assign=True)
    else:
        ours.to_empty(device="cpu")
        for tensor in [*ours.parameters(), *ours.buffers()]:
            tensor.data.fill_(7.0)
        load_pretrained(ours, source) if load == "load_pretrained" else ours.load_state_dict(source.state_dict())
    clip = torch.randn(1, 3, 8, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours(clip), source(clip))
