"""``videofib export``: what is written is the model, or there is one line that says why not, and nothing is left."""

import json
import sys

import pytest
import torch

from tests.commands import call
from tests.test_unwritable import largest_file, said_in_one_line
from videofib.cli import main
from videofib.run.load import load


def export(trained, to, out, *more):
    return call(main, ["export", "--model", trained, "--to", to, "--out", out, *more])


def test_a_program_with_its_classes_and_its_input(trained, tmp_path):
    result = export(trained, "pt2", tmp_path / "model.pt2")
    assert result.returncode == 0, result.stderr
    loaded, exporting, difference, wrote = result.stdout.splitlines()
    assert loaded.endswith("25,995 parameters, clips of 3 x 2 x 32 x 32")
    assert exporting == "exporting a program for torch.export.load ..."
    assert difference.startswith("largest difference from the model: ")
    assert wrote.startswith(f"wrote {tmp_path / 'model.pt2'} (0.")
    extra = {"model.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    found, saved = json.loads(extra["model.json"]), load(trained)
    assert found["classes"] == list(saved.classes)
    assert found["input"] == saved.input
    assert found["scores"] == "softmax of the logits of each clip, then the mean over clips"
    assert found["tensors"]["video"].startswith("float32 (batch, 3, 2, 32, 32)")


@pytest.mark.slow
def test_an_onnx_file_with_the_same(trained, tmp_path):
    import onnx

    result = export(trained, "onnx", tmp_path / "model.onnx")
    assert result.returncode == 0, result.stderr
    (entry,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert json.loads(entry.value)["classes"] == list(load(trained).classes)


def test_a_folder_for_transformers(trained, tmp_path):
    result = export(trained, "huggingface", tmp_path / "model")
    assert result.returncode == 0, result.stderr
    assert "largest difference from the model: " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= before.keys()
    again = export(trained, "huggingface", tmp_path / "model")
    assert said_in_one_line(again) == f"error: {tmp_path / 'model'} is there; name a new folder, or remove it"
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.mark.parametrize(
    ("to", "name", "said"),
    [
        ("onnx", "model.pt2", "--to onnx writes a file that ends in .onnx, got {}"),
        ("pt2", "folder.pt2", "--to pt2 writes a file that ends in .pt2, got {}"),
        ("huggingface", "folder.pt2", "{} is there; name a new folder, or remove it"),
    ],
)
def test_an_output_of_another_kind_is_refused_before_any_work(to, name, said, tmp_path):
    (tmp_path / "folder.pt2" / "mine").mkdir(parents=True)
    result = export(tmp_path / "no such model", to, tmp_path / name)
    assert said_in_one_line(result) == f"error: {said.format(tmp_path / name)}"


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("videofib.run.exporting.find_spec", lambda name: None if "onnx" in name else sys)
    result = export(tmp_path, "onnx", tmp_path / "model.onnx")
    said = "error: --to onnx needs onnx, onnxscript, onnxruntime: pip install 'videofib[export]'"
    assert said_in_one_line(result) == said
    result = export(tmp_path / "absent", "pt2", tmp_path / "model.pt2")
    assert str(tmp_path / "absent") in said_in_one_line(result)
    assert "--opts takes pairs" in export(tmp_path, "pt2", "m.pt2", "--opts", "DATA.NUM_FRAMES").stderr


@pytest.mark.parametrize(("to", "name"), [("pt2", "model.pt2"), ("huggingface", "model")])
def test_on_a_full_disk_nothing_stays(to, name, trained, tmp_path):
    with largest_file(1000):
        result = export(trained, to, tmp_path / name)
    said_in_one_line(result)
    assert str(tmp_path) in result.stderr
    assert not list(tmp_path.iterdir())
