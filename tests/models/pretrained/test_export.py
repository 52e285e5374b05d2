"""Exporting weights: the official and the Hugging Face layout give back the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TimesformerConfig, TimesformerForVideoClassification

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.export import save_hugging_face, save_official
from videofib.models.pretrained.load import load_pretrained

TINY = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3)
TYPES = ["divided_space_time", "joint_space_time", "space_only"]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("attention_type", TYPES)
def test_official_to_ours_to_official(attention_type, tmp_path, randomize):
    model = randomize(TimeSformer(**TINY, attention_type=attention_type))
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 14, "model_state": state, "cfg": "text"}, tmp_path / "theirs.pyth")
    ours = TimeSformer(**TINY, attention_type=attention_type)
    load_pretrained(ours, tmp_path / "theirs.pyth", strict=True)
    content = torch.load(save_official(ours, tmp_path / "back.pyth", config="text"), weights_only=True)
    assert_same(content["model_state"], state)
    assert content["cfg"] == "text"


@pytest.mark.parametrize("attention_type", TYPES)
def test_hugging_face_to_ours_to_hugging_face(attention_type, tmp_path, randomize):
    names = {0: "archery", 1: "bowling", 2: "crawling", 3: "diving", 4: "eating"}
    config = TimesformerConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, attention_type=attention_type, id2label=names,
        label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    theirs = randomize(TimesformerForVideoClassification(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = TimeSformer(**TINY, attention_type=attention_type).eval()
    report = load_pretrained(ours, tmp_path / "theirs")
    assert report.is_exact == (attention_type != "space_only")  # of which theirs gives the logits of each frame
    save_hugging_face(ours, tmp_path / "back", class_names=list(names.values()))
    assert_same(
        load_file(tmp_path / "back" / "model.safetensors"), load_file(tmp_path / "theirs" / "model.safetensors")
    )
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        tmp_path / "theirs" / "model.safetensors"
    ).read_bytes()
    back = TimesformerForVideoClassification.from_pretrained(tmp_path / "back").eval()
    assert_same(back.state_dict(), theirs.state_dict())
    for key, value in theirs.config.to_dict().items():
        if key not in ("_name_or_path", "transformers_version", "dtype", "architectures", "initializer_range"):
            assert back.config.to_dict()[key] == value, key
    video = torch.randn(2, 4, 3, 32, 32)
    assert torch.equal(back(video).logits, theirs(video).logits)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(attention_type="joint_space_time", joint_attention="fibottention"), "joint fibottention"),
        (dict(space_attention="fibottention"), "space fibottention"),
        (dict(time_attention="fibottention"), "time fibottention"),
        (dict(attention_type="space_only", space_attention="fibottention"), "space fibottention"),
        (
            dict(attention_type="joint_space_time", joint_attention="fibottention")
            | dict(mixer_options={"fibottention": {"masking": "zero_logit", "variant": "modified"}}),
            "joint fibottention",
        ),
    ],
)
def test_a_sparse_model_is_not_written_as_a_dense_one(options, named, tmp_path):
    model = TimeSformer(**TINY, **options)
    refused = rf"cannot hold a model with attention \({named}\)"
    with pytest.raises(CheckpointError, match=rf"{refused}; write its code beside the weights \(--remote-code"):
        save_hugging_face(model, tmp_path / "hf")
    with pytest.raises(CheckpointError, match=rf"official TimeSformer's layout {refused}$"):
        save_official(model, tmp_path / "official.pyth")
    assert not list(tmp_path.iterdir())


def test_sparse_attention_that_earlier_exports_noted_is_reported(tmp_path, randomize):
    """They wrote sparse models as dense ones, with a note of the settings."""
    options = dict(TINY, attention_type="joint_space_time")
    sparse = dict(joint_attention="fibottention", mixer_options={"fibottention": {"variant": "modified"}})
    settings = {"joint": "fibottention", "variant": "modified", "token_order": "hwt"}
    save_hugging_face(randomize(TimeSformer(**options)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "videofib": {"attention": settings}}))
    assert load_pretrained(TimeSformer(**options, **sparse), tmp_path, strict=True).fits
    report = load_pretrained(TimeSformer(**options), tmp_path)
    assert report.differs == (f"attention {settings} there, dense here",)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(tubelet_size=2), "tubelets of 2 frames"),
        (dict(num_registers=3), "registers"),
        (dict(class_token=False, pooling="mean"), "no class token, pooling by the mean"),
        (dict(position="sinusoid"), "sinusoid positions"),
        (dict(position="learned_joint"), "positions of all tokens"),
        (dict(activation="quick_gelu"), "activation quick_gelu"),
        (dict(activation="gelu_tanh"), "activation gelu_tanh"),
        (dict(qk_norm=True), "qk-norm"),
        (dict(layer_scale=0.1), "layer scale"),
        (dict(pre_norm=True), "a norm in front of the blocks"),
    ],
)
def test_a_model_that_the_layout_cannot_hold_is_refused(change, named, tmp_path):
    for save in (save_official, save_hugging_face):
        with pytest.raises(CheckpointError, match=named):
            save(TimeSformer(**TINY, **change), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_hugging_face_takes_square_frames_and_one_name_a_class_only(tmp_path):
    with pytest.raises(CheckpointError, match="32x48"):
        save_hugging_face(TimeSformer(**TINY | dict(img_size=(32, 48))), tmp_path)
    with pytest.raises(CheckpointError, match="got 2 class names for 5 classes"):
        save_hugging_face(TimeSformer(**TINY), tmp_path, class_names=["a", "b"])


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for save in (save_official, save_hugging_face):
        with pytest.raises(CheckpointError, match="cannot write"):
            save(TimeSformer(**TINY), tmp_path / "file" / "out")
