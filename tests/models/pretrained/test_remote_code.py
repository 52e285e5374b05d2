"""An export with remote code gives our logits in transformers, where videofib is not installed, or fails loudly."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.export import save_hugging_face
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.weight_files import read_weights

NAMES = ["archery", "bowling", "crawling", "diving", "eating"]
TINY = dict(img_size=(32, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3)
JOINT = dict(attention_type="joint_space_time", joint_attention="fibottention")


def fibottention(**options):
    return {"mixer_options": {"fibottention": {"w_min": 2, **options}}}


MODELS = {
    "joint": JOINT | fibottention(),
    "joint, modified, released": JOINT
    | fibottention(variant="modified", masking="zero_logit", head_order="per_layer", w_max=20),
    "joint, early, frame after frame": JOINT | fibottention(variant="modified_early", head_order="first_layer")
    | dict(token_order="thw"),
    "joint without prefix tokens": JOINT | fibottention(w_min=1, w_max=1) | dict(class_token=False, pooling="mean"),
    "joint without prefix tokens, zero_logit": JOINT | fibottention(masking="zero_logit")
    | dict(class_token=False, pooling="mean", position="sinusoid", tubelet_size=2),
    "joint with everything": JOINT | fibottention(masking="zero_logit")
    | dict(num_registers=2, qk_norm=True, layer_scale=0.1, pre_norm=True, qkv_bias=False, mlp_ratio=2.0),
    "divided": dict(space_attention="fibottention", time_attention="fibottention") | fibottention(),
    "divided, time, registers": dict(time_attention="fibottention", num_registers=3, pooling="mean")
    | fibottention(masking="zero_logit", variant="modified", head_order="per_layer"),
    "divided, frame after frame": dict(space_attention="fibottention", token_order="thw") | fibottention(),
    "space only": dict(attention_type="space_only", space_attention="fibottention") | fibottention(variant="modified"),
    "a position for each token, as ViViT's": dict(attention_type="joint_space_time", position="learned_joint")
    | dict(tubelet_size=2, activation="gelu_tanh"),
    "as CLIP": dict(pre_norm=True, activation="quick_gelu"),
    "dense with registers": dict(num_registers=1, position="sinusoid", tubelet_size=2, norm_eps=1e-3),
}  # fmt: skip

RUNS_THEM = """
import sys
import torch
sys.modules["videofib"] = None  # an import of it fails
from transformers import AutoModelForVideoClassification, TimesformerForVideoClassification

folder = sys.argv[1]
cases = torch.load(f"{folder}/cases.pt")
for name, case in cases.items():
    model = AutoModelForVideoClassification.from_pretrained(f"{folder}/{name}", trust_remote_code=True).eval()
    case["logits"] = [model(pixel_values=clip.transpose(1, 2)).logits.detach() for clip in case["clips"]]
    loss = model(pixel_values=case["clips"][0].transpose(1, 2), labels=torch.tensor([1, 3])).loss
    loss.backward()
    case["loss"] = loss.detach()
    case["gradient"] = model.blocks[0].attn.qkv.weight.grad
    case["names"] = [model.config.id2label[label] for label in range(5)]
    for loader, options in (
        (AutoModelForVideoClassification, {"trust_remote_code": False}),
        (TimesformerForVideoClassification, {}),
    ):
        try:
            loader.from_pretrained(f"{folder}/{name}", **options)
        except ValueError as error:
            case.setdefault("refused", []).append(str(error))
torch.save(cases, f"{folder}/results.pt")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of all exports, our models, and what a process without videofib made of the exports."""
    folder = tmp_path_factory.mktemp("exports")
    models, cases = {}, {}
    for seed, (name, options) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(seed)
        models[name] = model = TimeSformer(**TINY | options).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        save_hugging_face(model, folder / name, class_names=NAMES, remote_code=True)
        sizes = [(4, 32, 24), (8, 32, 24), (4, 48, 40), (2, 16, 8)]  # of the model, longer, larger, smaller
        cases[name] = {"clips": [torch.randn(2, 3, *size, generator=generator) for size in sizes]}
    torch.save(cases, folder / "cases.pt")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUNS_THEM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return folder, models, torch.load(folder / "results.pt")


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_ours_for_clips_of_any_size(ran, name):
    _, models, results = ran
    for clip, logits in zip(results[name]["clips"], results[name]["logits"], strict=True):
        torch.testing.assert_close(logits, models[name](clip), rtol=0, atol=1e-5)
    assert results[name]["names"] == NAMES


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_and_its_gradient_are_ours(ran, name):
    _, models, results = ran
    model = models[name]
    loss = nn.functional.cross_entropy(model(results[name]["clips"][0]), torch.tensor([1, 3]))
    (gradient,) = torch.autograd.grad(loss, model.blocks[0].attn.qkv.weight)
    torch.testing.assert_close(results[name]["loss"], loss.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[name]["gradient"], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_without_its_code_loading_fails(ran, name):
    first, second = ran[2][name]["refused"]
    assert "trust_remote_code=True" in first
    assert second.startswith("Unknown attention type: sparse_")


@pytest.mark.parametrize("name", MODELS)
def test_we_read_it_back_as_it_was(ran, name):
    folder, models, _ = ran
    ours = TimeSformer(**TINY | MODELS[name])
    assert load_pretrained(ours, folder / name, strict=True).is_exact
    assert read_weights(folder / name).classes == tuple(NAMES)
    assert all(torch.equal(tensor, models[name].state_dict()[key]) for key, tensor in ours.state_dict().items())
    if models[name].attention_settings():
        dense = {key: value for key, value in (TINY | MODELS[name]).items() if not key.endswith("_attention")}
        assert load_pretrained(TimeSformer(**dense), folder / name).differs[0].startswith("attention {")


def test_the_code_imports_torch_transformers_and_itself_alone(ran):
    folder = ran[0] / "joint"
    code = {file.stem: file for file in folder.glob("*.py")}
    assert code.keys() == {"configuration_videofib", "modeling_videofib", "wythoff"}
    for file in code.values():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert node.module in code
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {name.split(".")[0] for name in names} <= {"torch", "transformers", "math", "random"}
    config = json.loads((folder / "config.json").read_text())
    for target in config["auto_map"].values():
        module, _, name = target.partition(".")
        assert f"class {name}(" in code[module].read_text()


def test_what_the_code_cannot_compute_is_refused(tmp_path):
    for model, message in (
        (nn.Linear(2, 3), "cannot hold a model of type Linear"),
        (TimeSformer(**TINY | dict(num_classes=0)), "cannot hold a model without a classifier"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save_hugging_face(model, tmp_path / "out", remote_code=True)
    with pytest.raises(CheckpointError, match="got 2 class names for 5 classes"):
        save_hugging_face(TimeSformer(**TINY), tmp_path / "out", class_names=["a", "b"], remote_code=True)
    assert not list(Path(tmp_path).iterdir())
