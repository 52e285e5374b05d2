"""Multi-view scores on real videos against the plainest loop: one video, one view at a time, read in order."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from videofib.config import load_config
from videofib.data.video.decode import estimate, read_frames
from videofib.metrics.accuracy import topk_correct
from videofib.run.loaders import build_eval_loader
from videofib.run.parts import evaluate_from_config, model_from_config

CLIPS, CROPS, SIZE, FRAMES = 5, 3, 32, 4
CLASSES = 2


@pytest.fixture(scope="module")
def config(shared_data, tmp_path_factory):
    """A test of four real videos, wide and of different lengths, with a tiny TimeSformer."""
    folders = sorted(folder for folder in (shared_data / "ucf101_5").iterdir() if folder.is_dir())[:CLASSES]
    videos = [(video, label) for label, folder in enumerate(folders) for video in sorted(folder.iterdir())[:2]]
    folder = tmp_path_factory.mktemp("lists")
    (folder / "test.csv").write_text("".join(f"{video} {label}\n" for video, label in videos))
    settings = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": FRAMES,
        "DATA.SAMPLING_RATE": 8,
        "DATA.TEST_CROP_SIZE": SIZE,
        "MODEL.NUM_CLASSES": CLASSES,
        "TIMESFORMER.EMBED_DIM": 24,
        "TIMESFORMER.DEPTH": 2,
        "TIMESFORMER.NUM_HEADS": 2,
        "TIMESFORMER.ATTENTION_TYPE": "joint_space_time",
        "TEST.NUM_ENSEMBLE_VIEWS": CLIPS,
        "TEST.NUM_SPATIAL_CROPS": CROPS,
        "TEST.BATCH_SIZE": 7,  # so that forward passes go across videos
        "DATA_LOADER.NUM_WORKERS": 0,
    }
    return lambda **changes: load_config(None, [str(part) for item in {**settings, **changes}.items() for part in item])


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    model = model_from_config(config()).eval()
    with torch.no_grad():
        model.head.weight.normal_(std=0.3)  # so that the logits of views differ
    return model


@pytest.fixture(scope="module")
def view_logits(config, model):
    """Logits (N, V, K) by a loop that shares nothing with the loader but the decoder."""
    cfg = config()
    logits = []
    for record in build_eval_loader(cfg, "test").dataset.records:
        about = estimate(record.path)
        span = cfg.DATA.SAMPLING_RATE * FRAMES / cfg.DATA.TARGET_FPS * about.fps
        spare = max(about.num_frames - span, 0)
        for clip, crop in itertools.product(range(CLIPS), range(CROPS)):
            positions = [spare * clip / (CLIPS - 1) + (span - 1) * i / (FRAMES - 1) for i in range(FRAMES)]
            indices = [min(int(position + 1e-6), about.num_frames - 1) for position in positions]
            pixels = torch.from_numpy(read_frames(record.path, indices, backend="pyav")).permute(0, 3, 1, 2)
            height, width = pixels.shape[-2:]
            scaled = F.interpolate(pixels, (SIZE, width * SIZE // height), mode="bilinear", align_corners=False)
            left = (0, (scaled.shape[-1] - SIZE + 1) // 2, scaled.shape[-1] - SIZE)[crop]
            view = (scaled[..., left : left + SIZE] / 255 - 0.45) / 0.225
            with torch.inference_mode():
                logits.append(model(view.transpose(0, 1)[None])[0])
    return torch.stack(logits).view(-1, CLIPS * CROPS, CLASSES)


@pytest.mark.parametrize(("ensemble", "raw"), [("sum", False), ("max", False), ("sum", True), ("max", True)])
def test_scores_are_those_of_a_plain_loop(config, model, view_logits, ensemble, raw):
    cfg = config(**{"DATA.ENSEMBLE_METHOD": ensemble, "TEST.ENSEMBLE_LOGITS": raw})
    loader = build_eval_loader(cfg, "test")
    figures, scores = evaluate_from_config(cfg, model, loader, None, None, "test", num_crops=CROPS, details=True)
    for video, views in zip(scores.scores, view_logits, strict=True):
        view_scores = [
            view if raw else torch.tensor([view[k].exp() / view.exp().sum() for k in range(CLASSES)]) for view in views
        ]
        expected = [
            sum(float(view[k]) for view in view_scores) / len(view_scores)
            if ensemble == "sum"
            else max(float(view[k]) for view in view_scores)
            for k in range(CLASSES)
        ]
        torch.testing.assert_close(video, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert scores.scores.std(dim=0).min() > 1e-3
    assert scores.kind == ("logit" if raw else "softmax")
    by_views = figures["accuracy_by_views"]
    assert [views for views, _, _ in by_views] == [1, 3, 6, 9, 15]
    assert by_views[-1][1:] == [figures["top1_acc"], figures["top5_acc"]]
    middle = topk_correct(view_logits[:, CLIPS // 2 * CROPS + 1], scores.labels, 1)
    assert by_views[0][1] == 100 * middle.float().mean()


def test_several_labels_are_scored_by_the_same_loop(config, model, view_logits):
    cfg = config(**{"MODEL.LOSS_FUNC": "bce_logit"})
    loader = build_eval_loader(cfg, "test")
    figures, scores = evaluate_from_config(cfg, model, loader, None, None, "test", num_crops=CROPS, details=True)
    expected = torch.stack([sum(1 / (1 + (-view).exp()) for view in views) / len(views) for views in view_logits])
    torch.testing.assert_close(scores.scores, expected, rtol=1e-6, atol=1e-6)
    assert figures["mAP"] > 0
    assert "accuracy_by_views" not in figures
