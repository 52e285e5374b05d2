"""Programs of torch.export: our logits where videofib is not installed, in any batch."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from tests.models.exports.models import CLIP, KINDS, tiny
from videofib.models.exports.program import Difference, ExportError, check, compare, random_clips
from videofib.models.exports.pt2_file import METADATA, save_compiled, save_pt2

RUNS_IT = """
import sys
sys.modules["videofib"] = None  # an import of it fails
import torch
found = {"model.json": ""}
program = torch.export.load("model.pt2", extra_files=found)
print(found["model.json"])
with torch.no_grad():
    torch.save(program.module()(torch.load("clips.pt")), "logits.pt")
"""
METADATA_GIVEN = {"classes": ["été", "b"]}


def test_it_loads_and_runs_without_videofib(tmp_path):
    model, clips = tiny("joint_space_time", masking="zero_logit"), random_clips(3, CLIP)
    difference = save_pt2(model, tmp_path / "model.pt2", CLIP, METADATA_GIVEN)
    assert difference.largest < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    torch.save(clips, tmp_path / "clips.pt")
    command = [sys.executable, "-I", "-c", RUNS_IT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == METADATA_GIVEN
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(clips).detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_ours_in_any_batch(kind, sparse, tmp_path):
    model = tiny(kind, sparse=sparse, head_order="per_layer", class_token=kind != "space_only")
    assert save_pt2(model, tmp_path / "model.pt2", CLIP, {}).largest < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_logits_are_ours_in_any_batch(tmp_path):
    difference = save_compiled(tiny("joint_space_time"), tmp_path / "model.pt2", CLIP, METADATA_GIVEN)
    assert difference.largest < 1e-4
    package = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    assert json.loads(package.loader.get_metadata()[METADATA]) == METADATA_GIVEN


def test_a_difference_is_measured_on_every_batch_and_refused_beyond_the_tolerance():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 5))
    clip = (3, 2, 2, 2)

    def wrong_in_batch_5(clips, by):
        return model(clips) + (by if len(clips) == 5 else 0.0)

    assert compare(model, model, clip).largest == 0
    found = compare(model, lambda clips: wrong_in_batch_5(clips, 0.5), clip)
    assert found.largest == pytest.approx(0.5)
    with pytest.raises(ExportError, match=r"differs by 0\.5 from the model"):
        check(model, lambda clips: wrong_in_batch_5(clips, 0.5), clip, 1e-3)
    with pytest.raises(ExportError, match="differs by nan from the model"):
        check(model, lambda clips: wrong_in_batch_5(clips, float("nan")), clip, 1e-3)
    with pytest.raises(ExportError, match=r"gives \(1, 4\) where ours gives \(1, 5\)"):
        check(model, lambda clips: model(clips)[:, :4], clip, 1e-3)
    assert Difference(1e-3, 20.0).within(1e-4)  # the last bits of a float grow with the logit
    assert not Difference(1e-3, 2.0).within(1e-4)
