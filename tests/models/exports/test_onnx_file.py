"""ONNX files: our logits in onnxruntime, sparse attention that stays sparse, and no file that is not right."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.exports.models import CLIP, KINDS, TINY, randomized, tiny
from videofib.attention import Support
from videofib.models import TimeSformer
from videofib.models.exports import onnx_file
from videofib.models.exports.onnx_file import save_onnx
from videofib.models.exports.program import ExportError, random_clips

RUNS_IT = """
import sys
sys.modules["videofib"] = sys.modules["torch"] = None  # an import of one fails
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
print(session.get_modelmeta().custom_metadata_map["videofib"])
np.save("logits.npy", session.run(["logits"], {"video": np.load("clips.npy")})[0])
"""


def shapes(path):
    """The shapes of all tensors between the nodes of a file's graph, the batch counted as 1."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    return [[d.dim_value or 1 for d in value.type.tensor_type.shape.dim] for value in graph.value_info]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder with model.onnx, the model, the difference): sparse attention as in the released code."""
    folder, model = tmp_path_factory.mktemp("onnx"), tiny("joint_space_time", masking="zero_logit")
    metadata = {"classes": ["été", "b"], "input": {"mean": [0.45]}}
    return folder, model, save_onnx(model, folder / "model.onnx", CLIP, metadata)


def test_logits_are_ours_in_any_batch(exported):
    folder, _, difference = exported  # of batches 1, 2, 5
    assert difference.largest < 1e-4
    assert difference.logit > 0.1
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


def test_it_runs_with_onnxruntime_and_numpy_alone(exported, tmp_path):
    folder, model, _ = exported
    clips = random_clips(3, CLIP)
    np.save(tmp_path / "clips.npy", clips.numpy())
    command = [sys.executable, "-I", "-c", RUNS_IT, str(folder / "model.onnx")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"classes": ["été", "b"], "input": {"mean": [0.45]}}
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model(clips).detach().numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("head_order", ["none", "per_layer", "first_layer"])
@pytest.mark.parametrize("masking", ["exclude", "zero_logit"])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_so_are_those_of_every_sparse_model(kind, class_token, masking, head_order, tmp_path):
    model = tiny(kind, class_token=class_token, masking=masking, head_order=head_order)
    assert save_onnx(model, tmp_path / "model.onnx", CLIP, {}).largest < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_and_of_every_dense_one(kind, class_token, tmp_path):
    model = tiny(kind, sparse=False, class_token=class_token)
    assert save_onnx(model, tmp_path / "model.onnx", CLIP, {}).largest < 1e-4


class Square(nn.Module):
    """Attention written out, with a matrix of N x N weights; N = 512 patches of 2 frames of 64 x 64."""

    def forward(self, video):
        x = F.avg_pool3d(video, (1, 4, 4)).flatten(2).mT
        return (torch.softmax(x @ x.mT, dim=-1) @ x).mean(dim=1)


@pytest.mark.slow
def test_sparse_attention_holds_nothing_square(tmp_path):
    """At N = 512 no tensor has two N's, as the one of written-out attention has, which the search finds."""
    sizes = TINY | dict(img_size=64, patch_size=4, num_frames=2, depth=1)
    sparse = TimeSformer(**sizes, attention_type="joint_space_time", joint_attention="fibottention").eval()
    tokens, square, largest = 513, {}, {}
    for name, model in (("sparse", randomized(sparse)), ("square", Square())):
        save_onnx(model, tmp_path / f"{name}.onnx", (3, 2, 64, 64), {})
        found = shapes(tmp_path / f"{name}.onnx")
        square[name] = [shape for shape in found if sum(size in (tokens, tokens - 1) for size in shape) > 1]
        largest[name] = max(map(np.prod, found))
    assert square["square"]
    assert not square["sparse"]
    segments = max(len(Support.fibottention(3, 512).segments(head)) for head in range(3))
    assert largest["sparse"] <= tokens * max(4 * 24, 3 * (segments + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x3d", "slowfast_r50", "r2plus1d_r50", "mvit_b"])
def test_baselines_too(name, tmp_path):
    from videofib.models import baselines

    frames = {"num_frames": 4} if name in ("slowfast_r50", "mvit_b") else {}
    model = getattr(baselines, name)(num_classes=5, crop_size=32, **frames).eval()
    difference = save_onnx(model, tmp_path / "model.onnx", (3, 4, 32, 32), {})
    assert difference.largest < 1e-4


@pytest.mark.slow
def test_what_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_text("the old one")
    session = onnx_file._session
    monkeypatch.setattr(onnx_file, "_session", lambda path: lambda clips: session(path)(clips) + 0.01)
    with pytest.raises(ExportError, match=r"differs by 0\.01 from the model"):
        save_onnx(tiny("space_only"), tmp_path / "model.onnx", CLIP, {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]


class Branching(nn.Module):
    def forward(self, video):
        return video.mean((2, 3, 4)) if video.sum() > 0 else video.amax((2, 3, 4))


def test_what_cannot_be_traced_or_held_is_one_line(tmp_path):
    with pytest.raises(ExportError, match=r"torch\.export cannot trace this Branching: .") as caught:
        save_onnx(Branching(), tmp_path / "model.onnx", CLIP, {})
    assert "\n" not in str(caught.value)
    with torch.device("meta"):
        huge = nn.Linear(30_000, 20_000)
    with pytest.raises(ExportError, match=r"the weights take 2\.4 GB, and an ONNX file holds at most 2 GB"):
        save_onnx(huge, tmp_path / "model.onnx", CLIP, {})
    assert not list(tmp_path.iterdir())
