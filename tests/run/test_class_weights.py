"""TRAIN.CLASS_WEIGHTS: from the training list to the loss of training and of validation."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.experiment import newest, run, stats
from videofib.checkpoint.file import load_checkpoint
from videofib.config import ConfigError, load_config
from videofib.data.lists.records import Below, Records
from videofib.data.lists.texts import Texts
from videofib.run.class_weights import class_weights, videos_by_class
from videofib.run.loaders import build_eval_loader
from videofib.run.parts import model_from_config


def records_of(labels):
    """Videos of these classes, each a list."""
    flat, counts = np.array([label for each in labels for label in each]), np.array([len(each) for each in labels])
    ids = Texts.of([f"{number}.mp4" for number in range(len(labels))])
    return Records(ids, flat, counts.astype(np.int32), Below("."), multi_label=any(counts > 1))


def config(*words):
    return load_config(None, ["MODEL.NUM_CLASSES", 4, *words])


def test_balanced_counts_videos_and_logs_the_extremes(caplog):
    caplog.set_level("INFO", logger="videofib")
    records = records_of([[0]] * 6 + [[1]] * 2 + [[3]])
    found = class_weights(config("TRAIN.CLASS_WEIGHTS", "balanced"), records, ["run", "jump", "swim", "sit"])
    assert found.tolist() == pytest.approx([9 / (3 * 6), 9 / (3 * 2), 1, 9 / 3])
    assert found.dtype == torch.float32
    assert "classes count from 0.5 (run, 6 videos) to 3 (sit, 1 videos)" in caplog.text
    assert "1 class(es) without training videos have weight 1" in caplog.text
    assert class_weights(config(), records) is None


def test_a_class_counts_once_for_a_video_that_lists_it_twice_and_not_where_it_is_unknown():
    records = records_of([[0, 1, 0], [1], [3, 1], [-1]])
    assert videos_by_class(records, 4).tolist() == [1, 3, 0, 1]
    several = ["MODEL.LOSS_FUNC", "bce_logit", "TRAIN.CLASS_WEIGHTS"]
    assert class_weights(config(*several, "balanced"), records).tolist() == pytest.approx([3, 1 / 3, 1, 3])
    listed = config(*several, "listed", "TRAIN.LISTED_WEIGHTS", "[1, 2, 3, 4]")
    assert class_weights(listed, records).tolist() == [1, 2, 3, 4]


def test_listed_weights_keep_the_mean_over_training_videos_at_one():
    records = records_of([[0], [0], [1], [3]])
    words = ["TRAIN.CLASS_WEIGHTS", "listed", "TRAIN.LISTED_WEIGHTS"]
    found = class_weights(config(*words, "[1, 2, 9, 4]"), records)
    assert found.tolist() == pytest.approx([0.5, 1, 4.5, 2])
    assert torch.equal(class_weights(config(*words, "[10, 20, 90, 40]"), records), found)
    with pytest.raises(ConfigError, match=r"TRAIN\.LISTED_WEIGHTS are 0 for all classes of the training list"):
        class_weights(config(*words, "[0, 0, 5, 0]"), records)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("TRAIN.CLASS_WEIGHTS listed", "TRAIN.LISTED_WEIGHTS has 0, and MODEL.NUM_CLASSES is 4"),
        ("TRAIN.CLASS_WEIGHTS listed TRAIN.LISTED_WEIGHTS [1,2,3]", "TRAIN.LISTED_WEIGHTS has 3, and"),
        ("TRAIN.CLASS_WEIGHTS balanced TRAIN.LISTED_WEIGHTS [1,2,3,4]", "[1.0, 2.0, 3.0, 4.0] has no effect"),
        ("TRAIN.LISTED_WEIGHTS [1,2,3,4]", "has no effect: it is only read with TRAIN.CLASS_WEIGHTS listed"),
        ("TRAIN.CLASS_WEIGHTS listed TRAIN.LISTED_WEIGHTS [1,2,3,-4]", "at least 0"),
        ("TRAIN.CLASS_WEIGHTS balanced DATA_LOADER.SAMPLER class_balanced", "would correct that once more"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ConfigError) as error:
        config(*words.split())
    assert message in str(error.value)


@pytest.mark.parametrize("several", [False, True])
def test_a_run_trains_and_validates_with_them_and_resumes(experiment, tmp_path, several):
    data = shutil.copytree(experiment, tmp_path / "data")
    labels = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    (data / "train.csv").write_text("".join(f"train {i}.mp4 {label}\n" for i, label in enumerate(labels)))
    words = ["DATA.PATH_TO_DATA_DIR", str(data), "TRAIN.CLASS_WEIGHTS", "balanced", "GLOBAL_BATCH_SIZE", 8]
    words += ["MODEL.LOSS_FUNC", "bce_logit"] if several else ["MIXUP.ENABLE", True, "MIXUP.LABEL_SMOOTH_VALUE", 0.1]
    out = run(experiment, tmp_path / "out", *words, stages=["train"])
    weights = torch.tensor([4 / 8, 9 / 3, 11] if several else [12 / 24, 12 / 9, 12 / 3])

    cfg = load_config(experiment / "config.yaml", words)
    model = model_from_config(cfg).eval()
    model.load_state_dict(load_checkpoint(newest(out))["model_state"])
    with build_eval_loader(cfg, "val") as loader, torch.no_grad():
        batches = [(model(batch["views"].flatten(0, 1)), batch["labels"]) for batch in loader]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if several:
        expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    else:
        expected = F.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)
    assert stats(out, "val_epoch")[-1]["loss"] == pytest.approx(expected.item(), rel=1e-4)

    ended = load_checkpoint(newest(out))["model_state"]
    newest(out).unlink()
    run(experiment, out, *words, stages=["train"])
    again = load_checkpoint(newest(out))["model_state"]
    assert all(torch.equal(again[name], value) for name, value in ended.items())
    plain = run(experiment, tmp_path / "plain", *words, "TRAIN.CLASS_WEIGHTS", "none", stages=["train"])
    other = load_checkpoint(newest(plain))["model_state"]
    assert not all(torch.equal(other[name], value) for name, value in ended.items())
