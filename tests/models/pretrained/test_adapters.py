"""LoRA adapters that PEFT made, merged by us: the outputs are those of the model that PEFT merges."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DeiTConfig, DeiTForImageClassification, ViTConfig, ViTForImageClassification

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.export import save_hugging_face
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.weight_files import read_weights

SMALL = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8, intermediate_size=96,
    num_labels=5,
)  # fmt: skip
OURS = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=24, depth=2, num_heads=3)


def image_timesformer(**options):
    return TimeSformer(
        **OURS | dict(num_frames=1, attention_type="space_only", norm_eps=1e-12) | options
    ).eval()  # fmt: skip


def vit(randomize):
    return randomize(ViTForImageClassification(ViTConfig(**SMALL, id2label=dict(enumerate("abcde")))))


def with_adapter(base, folder, randomize, **options):
    """A folder of an adapter with random weights, and the model that PEFT merges."""
    model = get_peft_model(copy.deepcopy(base), LoraConfig(**options))
    trained = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model.merge_and_unload().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def edit(folder, **changes):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))


OPTIONS = {
    "queries and values": dict(r=2, target_modules=["q_proj", "v_proj"]),
    "all layers, rsLoRA": dict(r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True),
    "ranks and alphas by layer": dict(
        r=2, target_modules=["fc1", "o_proj"], rank_pattern={"fc1": 4}, alpha_pattern={"layers.1.mlp.fc1": 3}
    ),
    "a classifier of its own": dict(r=2, target_modules=["q_proj"], modules_to_save=["classifier"]),
    "all biases": dict(r=2, target_modules=["fc2", "k_proj"], bias="all"),
    "the patch embedding": dict(r=2, target_modules=["projection"], init_lora_weights="gaussian"),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("beside", [True, False])
def test_logits_are_those_of_pefts_merged_model(name, beside, images, randomize, tmp_path):
    base, folder, elsewhere = vit(randomize), tmp_path / "adapter", tmp_path / "base"
    merged = with_adapter(base, folder, randomize, **OPTIONS[name])
    base.save_pretrained(folder if beside else elsewhere)
    if not beside:
        edit(folder, base_model_name_or_path=str(elsewhere))
    ours = randomize(image_timesformer(), seed=1)
    report = load_pretrained(ours, folder, strict=True)
    assert report.is_exact
    assert report.layout == "Hugging Face ViT"
    assert "(LoRA, merged into " in str(report)
    with torch.no_grad():
        torch.testing.assert_close(ours(images[:, :, None]), merged(images).logits, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(merged(images).logits, base(images).logits, atol=1e-2)


def test_names_of_classes_are_the_bases_unless_the_classifier_is_the_adapters(randomize, tmp_path):
    for name, expected in (("queries and values", tuple("abcde")), ("a classifier of its own", None)):
        folder = tmp_path / name.replace(" ", "_")
        base = vit(randomize)
        with_adapter(base, folder, randomize, **OPTIONS[name])
        base.save_pretrained(folder)
        assert read_weights(folder).classes == expected


def test_a_classifier_for_other_classes_comes_with_the_adapter(images, randomize, tmp_path):
    base = vit(randomize)
    smaller = copy.deepcopy(base)
    smaller.classifier = nn.Linear(24, 3)
    merged = with_adapter(smaller, tmp_path, randomize, **OPTIONS["a classifier of its own"])
    base.save_pretrained(tmp_path)
    ours = image_timesformer(num_classes=3)
    load_pretrained(ours, tmp_path, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(images[:, :, None]), merged(images).logits, atol=1e-5, rtol=1e-5)


def test_names_of_transformers_4_fit_a_base_of_any(images, randomize, tmp_path):
    """An adapter that was trained with the modules' earlier names, which are still those in the files."""
    base = vit(randomize)
    merged = with_adapter(base, tmp_path, randomize, r=2, target_modules=["q_proj", "fc1"])
    base.save_pretrained(tmp_path)
    adapter = {
        name.replace(".layers.", ".encoder.layer.")
        .replace(".attention.q_proj.", ".attention.attention.query.")
        .replace(".mlp.fc1.", ".intermediate.dense."): tensor
        for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    save_file(adapter, tmp_path / "adapter_model.safetensors")
    ours = image_timesformer()
    load_pretrained(ours, tmp_path, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(images[:, :, None]), merged(images).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("remote_code", [False, True])  # where the names in the file are our own
def test_an_adapter_of_our_own_model(remote_code, randomize, tmp_path):
    base = randomize(TimeSformer(**OURS, num_frames=4))
    merged = with_adapter(base, tmp_path, randomize, r=2, target_modules=["qkv", "temporal_fc", "fc2"])
    save_hugging_face(base, tmp_path, remote_code=remote_code)
    ours = TimeSformer(**OURS, num_frames=4).eval()
    load_pretrained(ours, tmp_path, strict=True)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), merged(clip), atol=1e-5, rtol=1e-5)


# refused, in one line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(peft_type="IA3"), "an adapter of type IA3; LORA alone is merged"),
        (dict(use_dora=True), "not a plain LoRA adapter: adapter_config.json sets use_dora"),
        (dict(fan_in_fan_out=True), "sets fan_in_fan_out"),
        (dict(use_something_new=True), "sets use_something_new"),
        (dict(init_lora_weights="pissa"), "its base model was changed, too, since init_lora_weights is pissa"),
        (dict(lora_alpha="x"), "lora_alpha of adapter_config.json is x, not a number"),
        (dict(alpha_pattern={"(a+)+$": 1}), r"alpha_pattern of adapter_config.json has \(a\+\)\+\$"),
    ],
)
def test_adapters_of_other_kinds_are_refused(changes, message, randomize, tmp_path):
    base = vit(randomize)
    with_adapter(base, tmp_path, randomize, r=2, target_modules=["q_proj"])
    base.save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (("q_proj", "query_proj"), "changes layers that the base model does not have, such as base_model.model.vit"),
        (("base_model.model.vit", "base_model.model.text_model"), "layers that the base model does not have"),
        (("lora_B", "lora_C"), "is not of a plain LoRA adapter"),
        (("lora_B.weight", "bias"), "lacks lora_A or lora_B|is .* in the adapter"),
    ],
)
def test_adapters_of_other_models_are_refused(rename, message, randomize, tmp_path):
    base = vit(randomize)
    with_adapter(base, tmp_path, randomize, r=2, target_modules=["q_proj"])
    base.save_pretrained(tmp_path)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name.replace(*rename): tensor for name, tensor in adapter.items()}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path)


def test_an_adapter_of_another_width_is_refused(randomize, tmp_path):
    with_adapter(vit(randomize), tmp_path, randomize, r=2, target_modules=["q_proj"])
    DeiTForImageClassification(DeiTConfig(**SMALL | dict(hidden_size=48))).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is \(24, 2\) times \(2, 24\), and the base model's weight \(48, 48\)"):
        read_weights(tmp_path)


def test_a_base_that_is_not_there_is_named(randomize, tmp_path):
    with_adapter(vit(randomize), tmp_path, randomize, r=2, target_modules=["q_proj"])
    edit(tmp_path, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match=r"names no base model; copy the base model's config\.json"):
        read_weights(tmp_path)
    edit(tmp_path, base_model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"no model at .*nowhere"):
        read_weights(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_config.json").write_text("{}")
    edit(tmp_path, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="is an adapter, too"):
        read_weights(tmp_path)


def test_an_adapter_alone_is_not_taken_for_a_model(randomize, tmp_path):
    with_adapter(vit(randomize), tmp_path, randomize, r=2, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="holds a LoRA adapter that is not merged; name its folder"):
        read_weights(tmp_path / "adapter_model.safetensors")
    model = get_peft_model(vit(randomize), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        load_pretrained(image_timesformer(), model)
