"""A saved model loads with all that using it takes, from wherever it is saved, or the message says what it lacks."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TimesformerConfig, TimesformerForVideoClassification

import videofib
from tests.experiment import CLASSES, newest
from videofib.checkpoint.file import CheckpointError
from videofib.checkpoint.manager import best_checkpoint
from videofib.config import ConfigError, default_config, load_config
from videofib.run.load import load
from videofib.run.models import build_model
from videofib.run.saved_model import SavedModel


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """The folder that ``save_pretrained`` writes of the trained run."""
    return load(trained).save_pretrained(tmp_path_factory.mktemp("saved") / "model")


def states(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("source", ["run", "file", "folder"])
def test_all_that_using_it_takes(source, trained, saved):
    found = videofib.load({"run": trained, "file": newest(trained), "folder": saved}[source])
    assert found.classes == CLASSES
    assert found.views == (2, 3)
    assert found.epoch == 2
    assert not found.model.training
    assert found.model.attention_settings()["joint"] == "fibottention"
    assert found.input == {
        **{"num_frames": 2, "sampling": "dense", "sampling_rate": 4, "target_fps": 30.0},
        **{"short_side": 36, "crop_size": 32, "mean": [0.45] * 3, "std": [0.225] * 3},
    }
    assert torch.equal(states(found.model), states(load(trained).model))


def test_what_it_reached_is_known_of_the_tested_checkpoint_alone(trained, saved, tmp_path):
    figures = load(trained).results
    measured = json.loads((trained / "test_results.json").read_text())
    assert figures == {name: measured[name] for name in ("top1_acc", "top5_acc", "num_videos", "num_views")}
    assert load(saved).results == figures
    assert "| reached | top1_acc 83.3 %" in (saved / "README.md").read_text()
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "test_results.json").write_text(json.dumps(measured | {"checkpoint": "another.pyth"}))
    assert load(tmp_path / "run").results == {}


def test_the_newest_checkpoint_as_a_test_takes_or_the_best(trained):
    assert load(trained).name == str(newest(trained))
    assert load(trained, checkpoint="best").name == str(best_checkpoint(trained / "checkpoints"))
    with pytest.raises(ConfigError, match="unknown checkpoint 'last'; it must be newest or best"):
        load(trained, checkpoint="last")


def test_a_model_trained_on_a_gpu_loads_here(trained, tmp_path):
    content = torch.load(newest(trained), weights_only=True)
    assert "\n  BACKEND: auto" in content["config"]
    content["config"] = content["config"].replace("\n  BACKEND: auto", "\n  BACKEND: triton")
    torch.save(content, tmp_path / "gpu.pyth")
    assert load(tmp_path / "gpu.pyth").cfg.ATTENTION.BACKEND == "auto"
    assert load(tmp_path / "gpu.pyth", options={"ATTENTION.BACKEND": "gather"}).cfg.ATTENTION.BACKEND == "gather"


def test_keys_of_another_version_are_left_out(trained, tmp_path):
    content = torch.load(newest(trained), weights_only=True)
    content["config"] += "FUTURE:\n  KEY: 3\n"
    torch.save(content, tmp_path / "later.pyth")
    assert load(tmp_path / "later.pyth").classes == CLASSES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("MODEL: {NUM_CLASSES: 3}\nDATA: {NUM_FRAMES: 2000000}\n", "describes a model of unusual size"),
        (
            "MODEL: {NUM_CLASSES: 3}\nTIMESFORMER: {DEPTH: 100000, EMBED_DIM: 64, NUM_HEADS: 4}\n",
            "describes a model of unusual size",
        ),
        ("a: [b\n", "cannot be read"),
        ("a: &a [*a]\n", "cannot be read|does not"),
        ("MODEL: {NUM_CLASSES: 1e99}\n", "MODEL.NUM_CLASSES is 1e99 in the config of"),
    ],
)
def test_a_hostile_config_is_one_line(config, message, trained, tmp_path):
    content = torch.load(newest(trained), weights_only=True) | {"config": config}
    torch.save(content, tmp_path / "a.pyth")
    with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
        load(tmp_path / "a.pyth")
    assert "\n" not in str(caught.value)


def test_weights_without_a_config_ask_for_it(trained, experiment, tmp_path):
    torch.save(torch.load(newest(trained), weights_only=True)["model_state"], tmp_path / "bare.pyth")
    with pytest.raises(CheckpointError, match=r"bare\.pyth does not say which model .*name the config"):
        load(tmp_path / "bare.pyth")
    found = load(tmp_path / "bare.pyth", config=experiment / "config.yaml")
    assert found.classes == ["0", "1", "2"]
    assert load(tmp_path / "bare.pyth", config=experiment / "config.yaml", classes=CLASSES).classes == CLASSES
    with pytest.raises(CheckpointError, match="a model of 3 classes, and 2 are named"):
        load(tmp_path / "bare.pyth", config=experiment / "config.yaml", classes=["a", "b"])
    with pytest.raises(CheckpointError, match="the given classes have the name 'a' twice"):
        load(tmp_path / "bare.pyth", config=experiment / "config.yaml", classes=["a", "a", "b"])


def test_options_and_precision(trained):
    found = load(trained, options={"TEST.NUM_ENSEMBLE_VIEWS": 5}, precision="bf16")
    assert found.views == (5, 3)
    with pytest.raises(ConfigError, match="unknown precision 'fp8'; it must be one of fp32, bf16, fp16"):
        load(trained, precision="fp8")
    with pytest.raises(ConfigError, match=r"TEST\.NUM_ENSEMBEL_VIEWS"):
        load(trained, options={"TEST.NUM_ENSEMBEL_VIEWS": 5})


@pytest.mark.parametrize("name", ["no/such/file", "nothing", "x" * 5000, "a\x1b[2Jb"])
def test_no_such_model(name):
    with pytest.raises(CheckpointError, match="name a checkpoint, a run's folder, a saved folder, one of") as caught:
        load(name)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_run_without_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*; has the run trained"):
        load(tmp_path)


def test_other_models_than_timesformer(tmp_path):
    cfg = load_config(None, ["MODEL.MODEL_NAME", "X3D_S", "MODEL.NUM_CLASSES", 3, "DATA.TRAIN_CROP_SIZE", 64,
                             "DATA.TEST_CROP_SIZE", 64, "DATA.TRAIN_JITTER_SCALES", [64, 80]], notes=[])  # fmt: skip
    model = build_model(cfg).eval()
    folder = SavedModel(model, CLASSES, cfg, "x3d").save_pretrained(tmp_path / "x3d")
    found = load(folder)
    assert found.classes == CLASSES
    assert torch.equal(states(found.model), states(model))
    features = found.features(torch.zeros(4, 64, 64, 3, dtype=torch.uint8))
    assert features.shape == (model.classifier.in_features,)


def test_a_timesformer_of_hugging_face(tmp_path):
    config = TimesformerConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=48, attention_type="divided_space_time", id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    theirs = TimesformerForVideoClassification(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(CheckpointError, match="does not say how far the frames of a clip are apart"):
        load(tmp_path / "theirs")
    found = load(tmp_path / "theirs", options={"DATA.SAMPLING_RATE": 32})
    assert found.classes == CLASSES
    assert found.input["mean"] == [0.5] * 3
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found.model(clips), theirs(clips.transpose(1, 2)).logits, atol=1e-5, rtol=0)


def split_weights(folder):
    """Replace model.safetensors by two files and their index; returns the index."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def test_weights_in_several_files(saved, trained, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    index = split_weights(tmp_path / "m")
    assert torch.equal(states(load(tmp_path / "m").model), states(load(trained).model))
    files = json.loads(index.read_text())
    first = next(iter(files["weight_map"]))
    for name, message in [
        ("../m/model-00001-of-00002.safetensors", "not a safetensors file beside it"),
        ("/etc/passwd", "not a safetensors file beside it"),
        ("model-00003-of-00002.safetensors", "no checkpoint at"),
        (3, "no weight_map"),
    ]:
        index.write_text(json.dumps(files | {"weight_map": files["weight_map"] | {first: name}}))
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "m")
    index.write_text(json.dumps(files | {"weight_map": files["weight_map"] | {"another": files["weight_map"][first]}}))
    with pytest.raises(CheckpointError, match="names tensors that its files lack, such as another"):
        load(tmp_path / "m")


LOADS = "import sys, videofib; print(videofib.load(sys.argv[1]).classes)"


def in_hub_cache(cache, saved, *, main=True):
    """The folder of a repository, as the Hub's library keeps it; returns it."""
    root, commit = cache / "models--someone--colours", "0123456789" * 4
    shutil.copytree(saved, root / "snapshots" / commit)
    if main:
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(commit)
    return root


def test_the_hub_and_its_cache(saved, tmp_path):
    root = in_hub_cache(tmp_path, saved)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def loaded(name):
        return subprocess.run([sys.executable, "-c", LOADS, name], env=environment, text=True, capture_output=True)

    assert loaded("someone/colours").stdout.strip() == str(CLASSES)
    assert load(root).classes == CLASSES
    absent = loaded("someone/else").stderr.splitlines()[-1]
    assert "no file or folder someone/else, and it cannot be downloaded from the Hugging Face Hub" in absent


def test_a_folder_of_the_cache_without_a_mark(saved, tmp_path):
    root = in_hub_cache(tmp_path, saved, main=False)
    assert load(root).classes == CLASSES
    (root / "snapshots" / "another").mkdir()
    with pytest.raises(CheckpointError, match="with 2 downloads, none of which is marked as the newest"):
        load(root)


def test_a_saved_folder_names_no_path_of_the_machine(saved, experiment, trained):
    for file in saved.iterdir():
        assert str(experiment).encode() not in file.read_bytes(), file
        assert str(trained).encode() not in file.read_bytes(), file


@pytest.mark.parametrize("change", [{"hidden_size": 0}, {"hidden_size": "x"}, {"image_size": None}, {"patch_size": []}])
def test_a_damaged_config_of_hugging_face_is_one_line(change, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    sizes = {"model_type": "timesformer", "attention_type": "divided_space_time", "patch_size": 8, "hidden_size": 24}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "qkv_bias": True, "layer_norm_eps": 1e-6}
    sizes |= {"num_frames": 2, "intermediate_size": 96, "image_size": 32}
    (tmp_path / "m" / "config.json").write_text(json.dumps(sizes | change))
    with pytest.raises(CheckpointError, match=f"has no usable {next(iter(change))}"):
        load(tmp_path / "m")


def test_the_default_config_is_saved_and_read_again(trained):
    assert load(trained).cfg.keys() == default_config().keys()
