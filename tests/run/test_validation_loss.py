"""The loss of validation: in the lines of figures, the report and comparisons."""

import re
import shutil

import pytest
import torch
import torch.nn.functional as F

from tests.experiment import newest, run, stats
from videofib.checkpoint.file import load_checkpoint
from videofib.config import load_config
from videofib.report.comparison import Comparison
from videofib.run.loaders import build_eval_loader
from videofib.run.parts import model_from_config

CASES = {
    "plain": ([], F.cross_entropy),
    "smoothed and mixed": (["MIXUP.ENABLE", "True", "MIXUP.LABEL_SMOOTH_VALUE", "0.2"], F.cross_entropy),
    "several classes": (["MODEL.LOSS_FUNC", "bce_logit"], F.binary_cross_entropy_with_logits),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_loss_of_the_labels_alone_and_is_shown(experiment, tmp_path, case):
    words, loss = CASES[case]
    out = run(experiment, tmp_path / "run", *words, stages=["train"])
    cfg = load_config(experiment / "config.yaml", words)
    model = model_from_config(cfg).eval()
    found = [line["loss"] for line in stats(out, "val_epoch")]
    for epoch, logged in enumerate(found, start=1):
        model.load_state_dict(load_checkpoint(newest(out, epoch))["model_state"])
        with build_eval_loader(cfg, "val") as loader, torch.no_grad():
            batches = [(model(batch["views"].flatten(0, 1)), batch["labels"]) for batch in loader]
        logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert logged == pytest.approx(loss(logits, labels).item(), rel=1e-4)
    assert len(set(found)) == 2

    assert re.search(r"validate: .*, loss [0-9.]+ of 3 videos", (out / "log.txt").read_text())
    (learning,) = re.findall(
        r'<section aria-labelledby="learning".*?</section>', (out / "report.html").read_text(), re.DOTALL
    )
    (chart,) = re.findall(r'data-lines="([^"]*)"', learning.partition("Top-1")[0].partition("Mean average")[0])
    assert f"[2.0, {found[1]}]" in chart.partition("validation")[2]
    shutil.copytree(out, tmp_path / "other")
    (row,) = [row for row in Comparison([out, tmp_path / "other"]).figures() if row[0] == "Final validation loss"]
    assert float(row[1]) == pytest.approx(found[1], rel=1e-3)
