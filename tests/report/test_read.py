"""Reading a run's folder, also after a resume or a kill, and with damaged files."""

import json

import pytest

from videofib.config import load_config
from videofib.report.read import ReportError, changed_settings, read_run, timeline


def step(epoch, number, loss, steps=4):
    return {"_type": "train_iter", "epoch": epoch, "step": number, "steps": steps, "loss": loss}


def end(epoch, kind="train_epoch", **figures):
    return {"_type": kind, "epoch": epoch, **figures}


def test_a_resumed_run_replaces_the_lines_of_the_interrupted_one():
    first = [
        step(1, 2, 9.0),
        step(1, 4, 8.0),
        end(1),
        end(1, "val_epoch", top1_acc=5),
        step(2, 2, 7.0),
        step(2, 4, 6.0),
    ]
    resumed = [step(2, 2, 1.0)]  # from the end of epoch 1, at the second step of epoch 2 by now
    lines = [*first, *resumed]
    assert [(line["at"], line["loss"]) for line in timeline(lines, "train_iter")] == [
        (0.5, 9.0),
        (1.0, 8.0),
        (1.5, 1.0),
    ]
    assert [line["at"] for line in timeline(lines, "train_epoch")] == [1.0]
    assert [line["top1_acc"] for line in timeline(lines, "val_epoch")] == [5]


def test_steps_lie_within_their_epoch_whatever_their_number():
    lines = [step(1, 4, 1.0), end(1), step(2, 1, 9.0), step(2, 2, 9.0), step(2, 3, 9.0), step(2, 1, 2.0, steps=2)]
    assert [(line["at"], line["loss"]) for line in timeline(lines, "train_iter")] == [
        (1.0, 1.0),
        (1.25, 9.0),
        (1.5, 2.0),
    ]


def test_a_test_of_an_early_checkpoint_leaves_the_curves_alone():
    lines = [end(1), end(2), end(3), {"_type": "test_final", "epoch": 1, "top1_acc": 50}]
    assert [line["epoch"] for line in timeline(lines, "train_epoch")] == [1, 2, 3]


def test_a_damaged_folder_is_read_as_far_as_possible(tmp_path):
    good = json.dumps(step(1, 2, 3.0))
    (tmp_path / "stats.jsonl").write_text(f'{good}\n[1]\n{{"loss": 1}}\nnull\n{{"_type": "train_it')
    (tmp_path / "test_results.json").write_text('{"top1_acc": 5')
    (tmp_path / "config.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "environment.json").write_text("[]")
    run = read_run(tmp_path)
    assert [line["loss"] for line in run.steps] == [3.0]
    assert (run.results, run.config, run.records) == (None, {}, {})
    assert sorted(reason.split(":")[0] for reason in run.missing) == [
        "config.yaml",
        "environment.json",
        "stats.jsonl",
        "test_results.json",
    ]
    assert "4 of 5 lines cannot be read in full; line 2: expected a JSON object, got a list" in str(run.missing)


def test_a_folder_that_is_not_of_a_run_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"neither stats\.jsonl nor test_results\.json"):
        read_run(tmp_path)


def test_settings_that_differ_from_the_defaults(tmp_path):
    (tmp_path / "test_results.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(load_config(None, ["SOLVER.BASE_LR", "0.1"]).dump())
    assert changed_settings(read_run(tmp_path).config) == {"SOLVER.BASE_LR": (0.005, 0.1)}


@pytest.mark.parametrize(("tested", "views"), [("2024-05-02T09:00:00+00:00", 4), ("2024-04-30T09:00:00+00:00", 10)])
def test_settings_of_testing_are_those_of_the_last_test(tmp_path, tested, views):
    (tmp_path / "test_results.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("TEST: {NUM_ENSEMBLE_VIEWS: 10}\nSOLVER: {BASE_LR: 0.1}\n")
    (tmp_path / "environment.json").write_text('{"started": "2024-05-01T12:30:00+00:00"}')
    (tmp_path / "test_config.yaml").write_text("TEST: {NUM_ENSEMBLE_VIEWS: 4}\nSOLVER: {BASE_LR: 0.2}\n")
    (tmp_path / "test_environment.json").write_text(json.dumps({"started": tested}))
    assert read_run(tmp_path).config == {"TEST.NUM_ENSEMBLE_VIEWS": views, "SOLVER.BASE_LR": 0.1}
