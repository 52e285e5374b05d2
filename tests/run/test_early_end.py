"""``TRAIN.PATIENCE`` from the command line: two stages, a report, and a run that has already ended."""

import torch

from tests.experiment import newest, results, run, stats, weights


def test_a_run_ends_early_and_is_tested_and_reported(experiment, trained, tmp_path):
    # the tiny experiment is all right after two epochs, so that nothing later is better
    words = ["SOLVER.MAX_EPOCH", 8, "TRAIN.PATIENCE", 2, "TRAIN.CHECKPOINT_PERIOD", 100, "SOLVER.BASE_LR", 0.01]
    out = run(experiment, tmp_path / "out", *words)
    found = [line["top1_acc"] for line in stats(out, "val_epoch")]
    epochs = len(found)
    assert epochs < 8
    assert found[-3] == max(found)
    log = (out / "log.txt").read_text()
    assert log.count(f"training ends early, after {epochs} of 8 epochs: the last 2 validation(s)") == 1
    assert results(out)["checkpoint"].endswith(f"checkpoint_epoch_{epochs:05d}.pyth")
    assert f"{epochs} of 8" in (out / "report.html").read_text()

    end = weights(out, epochs)
    run(experiment, out, *words, stages=["train"])
    assert f"training ended early (TRAIN.PATIENCE), {epochs} epochs are done" in (out / "log.txt").read_text()
    calm = run(experiment, tmp_path / "calm", *words, "TRAIN.PATIENCE", 0, "TRAIN.CHECKPOINT_PERIOD", epochs)
    assert torch.equal(weights(calm, epochs), end)
    assert newest(calm, 8).exists()
