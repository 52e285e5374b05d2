"""Folders of ``save_pretrained`` in transformers' pipeline, without videofib: our scores on real videos."""

import ast
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from videofib.data.lists.records import Records
from videofib.run.load import load
from videofib.run.loaders import view_dataset
from videofib.run.models import build_model
from videofib.run.saved_model import SavedModel

PIPELINE = """
import json, sys
sys.modules["videofib"] = None  # an import of it fails
from transformers import pipeline

folders, videos = json.load(sys.stdin)
answers = {}
for name, folder in folders.items():
    classify = pipeline("video-classification", model=folder, trust_remote_code=True)
    answers[name] = {video: {found["label"]: found["score"] for found in classify(video, top_k=9)} for video in videos}
json.dump(answers, sys.stdout)
"""
CLASSES = ["red", "green", "blue"]
OTHERS = {  # of the trained model's config
    "sparse": [],
    "dense": ["ATTENTION.JOINT", "dense"],
    "uniform": ["DATA.SAMPLING", "uniform", "TEST.VIEW_STARTS", "published", "DATA.READ_SHORT_SIDE", 40],
    "several classes": ["MODEL.LOSS_FUNC", "bce_logit"],
}


@pytest.fixture(scope="module")
def models(trained):
    saved = load(trained, device="cpu")
    found = {}
    for name, words in OTHERS.items():
        cfg = saved.cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(words)
        model = build_model(cfg).eval()
        model.load_state_dict(saved.model.state_dict())
        found[name] = SavedModel(model, CLASSES, cfg, name)
    return found


@pytest.fixture(scope="module")
def videos(shared_data, experiment, tmp_path_factory):
    """Real videos, and some whose frames have to be turned, stretched, or are shown at uneven times."""
    folder = tmp_path_factory.mktemp("videos")
    found = [str(experiment / "test 0.mp4"), *map(str, sorted((shared_data / "ucf101_5").rglob("*.avi"))[:2])]
    found += [str(path) for path in sorted((shared_data / "samples").rglob("*.mp4"))[:2]]
    found += [str(shared_data / "hostile" / name) for name in ("rotated_90.mp4", "codec_mpeg2.mpg")]
    found.append(str(_uneven(folder / "uneven.mp4")))
    return found


def _uneven(path):
    """A video of which every third frame is shown five times as long, with pixels twice as wide as high."""
    rng, time = np.random.default_rng(0), 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 96, "yuv420p", Fraction(1, 30)
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for number in range(30):
            image = np.full((96, 64, 3), 8 * number, np.uint8) + rng.integers(0, 10, (96, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            time += 5 if number % 3 == 0 else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def answers(models, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    folders = {name: str(saved.save_pretrained(folder / name.replace(" ", "_"))) for name, saved in models.items()}
    env = os.environ | {"HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PIPELINE], input=json.dumps([folders, videos]), capture_output=True, text=True,
        env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", OTHERS)
def test_scores_are_those_of_one_view(name, answers, models, videos):
    for video in videos:
        ours = dict(models[name].predict(video, views=(1, 1), top=3))
        assert answers[name][video].keys() == ours.keys()
        for label, score in ours.items():
            assert abs(answers[name][video][label] - score) < 1e-5, video


def test_the_videos_and_the_models_tell_mistakes_apart(answers, videos):
    """Another frame, crop or colour would change a score by far more than what is allowed."""
    for name in OTHERS:
        scores = [answers[name][video]["red"] for video in videos]
        assert max(scores) - min(scores) > 0.01
    assert all(abs(sum(answers["sparse"][video].values()) - 1) < 1e-5 for video in videos)
    assert any(abs(sum(answers["several classes"][video].values()) - 1) > 1e-2 for video in videos)


@pytest.mark.parametrize("name", ["sparse", "dense"])
def test_the_code_that_reads_videos_imports_nothing_of_videofib(name, models, tmp_path):
    code = {file.stem: file for file in Path(models[name].save_pretrained(tmp_path)).glob("*.py")}
    assert {"video_processing_videofib", "sampling", "clock", "display", "rgb"} <= code.keys()
    assert ("modeling_videofib" in code) == (name == "sparse")
    for file in code.values():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert node.module in code
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                allowed = {*sys.stdlib_module_names, "torch", "transformers", "av", "numpy"}
                assert {name.split(".")[0] for name in names} <= allowed


def test_frames_in_memory_are_a_clip_or_are_sampled(models, tmp_path):
    """And other arrays are refused; the class itself is called here, with our modules beside it."""
    folder = models["sparse"].save_pretrained(tmp_path / "saved")
    script = f"""
import sys
sys.modules["videofib"] = None
import numpy as np
from transformers import AutoVideoProcessor
processor = AutoVideoProcessor.from_pretrained({str(folder)!r}, trust_remote_code=True)
frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
np.save({str(tmp_path / "sampled.npy")!r}, processor(frames)["pixel_values"].numpy())
np.save({str(tmp_path / "clip.npy")!r}, processor([frames[:2]], do_sample_frames=False)["pixel_values"].numpy())
try:
    processor(frames.astype(float))
except ValueError as error:
    print(error)
"""
    env = os.environ | {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, env=env)
    assert done.stdout == "frames must be uint8 (T, H, W, 3), got float64 (20, 48, 64, 3)\n", done.stderr
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    read = view_dataset(models["sparse"].cfg, Records.unlabelled([]), 1, 1).read
    ours = read.of_frames(frames, models["sparse"].cfg.DATA.TARGET_FPS).transpose(1, 2).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "sampled.npy"), ours, rtol=0, atol=1e-6)
    clip = read.transform(frames, [[0, 1]]).transpose(1, 2).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "clip.npy"), clip, rtol=0, atol=1e-6)
