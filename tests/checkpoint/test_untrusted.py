"""Checkpoints of videofib that parse and hold what was never written: refused in one line, and nothing is lost."""

import logging
import math

import pytest
import torch
from torch import nn

from videofib.checkpoint.file import CheckpointError, Position, TrainingState, load_checkpoint, restore
from videofib.checkpoint.manager import CheckpointManager, latest_checkpoint
from videofib.engine.optim import build_optimizer


def run_parts(method="adamw", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = build_optimizer([{"params": list(model.parameters())}], method, lr=0.1, **options)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder, epoch=1, step=0, parts=None, **options):
    return CheckpointManager(folder, TrainingState(*(parts or run_parts())), **options).save(Position(epoch, step))


def change(path, **entries):
    torch.save({**torch.load(path), **entries}, path)


@pytest.fixture
def heard(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)
    return caplog


NUMBERS = ["abc", None, -1, math.nan, 10**30, True, 2.5, 1.0, [], {}, torch.tensor(3), math.inf, "\x1b[2J"]
SCALER = {"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
WRONG = [
    *[("epoch", value) for value in NUMBERS],
    *[("step", value) for value in NUMBERS],
    *[(name, value) for name in ("model_state", "ema_state") for value in ([], "x", 3, {"a": 1}, {1: torch.ones(1)})],
    ("model_state", None),
    ("model_state", {"\x1b]0;a\x07": None}),
    ("model_state", {"a": torch.ones(2, device="meta")}),
    ("model_state", {"a": torch.eye(2).to_sparse()}),
    *[("optimizer_state", value) for value in (None, [], "x")],
    *[("states", value) for value in (None, {}, 3, [1], [None])],
    *[("config", value) for value in (None, 3, {})],
    *[("input", value) for value in (3, "x", [])],
    *[("scaler_state", value) for value in ("x", 3, {"a": 1}, {**SCALER, "scale": math.nan}, {**SCALER, "scale": 0})],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: ascii(value)[:30])
def test_what_was_never_written_is_refused_and_the_one_before_resumed(tmp_path, heard, name, value):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    change(bad, **{name: value})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(bad)
    assert str(caught.value).startswith(f"{bad} is damaged: its ")
    assert name in str(caught.value)
    assert str(caught.value).isprintable()
    assert latest_checkpoint(tmp_path)[0] == good
    assert bad.exists()
    assert "trying the one before it" in heard.text


@pytest.mark.parametrize(("name", "most"), [("epoch", 10**6), ("step", 10**9)])
def test_positions_of_long_runs_are_read_and_impossible_ones_refused(tmp_path, name, most):
    path = save(tmp_path)
    change(path, **{name: most})
    assert load_checkpoint(path)[name] == most
    change(path, **{name: most + 1})
    with pytest.raises(CheckpointError, match=f"its {name} is {most + 1}, expected a whole number from 0 to {most}$"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["epoch", "model_state", "optimizer_state", "config", "versions"])
def test_a_missing_entry_is_refused(tmp_path, name):
    path = save(tmp_path)
    content = torch.load(path)
    del content[name]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is not a videofib checkpoint"):
        load_checkpoint(path)


METHODS = {"sgd": "SGD", "adamw": "AdamW", "lamb": "LAMB", "lion": "Lion"}


@pytest.mark.parametrize("saved", METHODS)
@pytest.mark.parametrize("resumed", METHODS)
def test_another_method_of_optimization_is_refused_with_both_names(tmp_path, saved, resumed):
    path = save(tmp_path, parts=run_parts(saved))
    manager = CheckpointManager(tmp_path, TrainingState(*run_parts(resumed)))
    if saved == resumed:
        assert manager.resume().path == path
        return
    with pytest.raises(CheckpointError) as caught:
        manager.resume()
    said = (
        f"{path} was written with another optimizer, {METHODS[saved]}, and this run has {METHODS[resumed]}: set SOLVER"
    )
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("saved", [{"momentum": 0.0, "nesterov": False}, {"momentum": 0.9, "nesterov": False}, {}])
@pytest.mark.parametrize("resumed", [{"momentum": 0.0, "nesterov": False}, {"momentum": 0.5}, {}])
def test_another_momentum_is_taken_from_the_config(tmp_path, saved, resumed):
    path = save(tmp_path, parts=run_parts("sgd", **saved))
    model, optimizer = run_parts("sgd", **resumed)
    restore(load_checkpoint(path), path, TrainingState(model, optimizer))
    assert optimizer.param_groups[0]["momentum"] == resumed.get("momentum", 0.9)
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_other_groups_of_parameters_are_refused_with_their_sizes(tmp_path):
    path = save(tmp_path)
    model, _ = run_parts()
    first, *rest = model.parameters()
    grouped = build_optimizer([{"params": [first]}, {"params": rest}], "adamw", lr=0.1)
    with pytest.raises(CheckpointError, match=r"groups have 4 parameters, those of this run 1 \+ 3; set SOLVER"):
        restore(load_checkpoint(path), path, TrainingState(model, grouped))


@pytest.mark.parametrize(("groups", "listed"), [(6, "1 + 1 + 1 + 1 + 1 + 1;"), (7, "1 + 1 + 1 + 1 + 1 + 1 + …;")])
def test_of_many_groups_the_first_six_are_listed(tmp_path, groups, listed):
    def parts(each):
        model = nn.ParameterList([torch.ones(2) for _ in range(groups)])
        return model, build_optimizer(each(list(model)), "adamw", lr=0.1)

    path = save(tmp_path, parts=parts(lambda parameters: [{"params": parameters}]))
    one_each = TrainingState(*parts(lambda parameters: [{"params": [parameter]} for parameter in parameters]))
    with pytest.raises(CheckpointError) as caught:
        restore(load_checkpoint(path), path, one_each)
    assert f"groups have {groups} parameters, those of this run {listed} set SOLVER" in str(caught.value)


def damaged_optimizers():
    """Ways to damage the state of an AdamW, in place."""

    def moment(name, value):
        return lambda saved: saved["state"][0].update({name: value})

    return {
        "no groups": lambda saved: saved.pop("param_groups"),
        "no state": lambda saved: saved.pop("state"),
        "empty groups": lambda saved: saved.update(param_groups=[]),
        "groups of texts": lambda saved: saved.update(param_groups=["a"]),
        "parameters of none": lambda saved: saved["param_groups"][0].update(params=None),
        "numbers of texts": lambda saved: saved["param_groups"][0].update(params=["a", "b", "c", "d"]),
        "numbers that repeat": lambda saved: saved["param_groups"][0].update(params=[0, 0, 0, 0]),
        "moments of nothing": lambda saved: saved["state"].update({99: {}}),
        "moments that are a text": lambda saved: saved["state"].update({0: "x"}),
        "another shape": moment("exp_avg", torch.ones(7)),
        "no tensor": moment("exp_avg", "x"),
        "none": moment("exp_avg", 3.0),
        "steps of a shape": moment("step", torch.ones(3)),
        "steps of a text": moment("step", "\x1b[2J"),
        "no steps": lambda saved: saved["state"][0].pop("step"),
        "no moment": lambda saved: saved["state"][1].pop("exp_avg_sq"),
        "on meta": moment("exp_avg", torch.ones(3, 4, device="meta")),
    }


@pytest.mark.parametrize("way", damaged_optimizers())
def test_a_damaged_optimizer_is_refused(tmp_path, way):
    path = save(tmp_path)
    saved = torch.load(path)["optimizer_state"]
    damaged_optimizers()[way](saved)
    change(path, optimizer_state=saved)
    with pytest.raises(CheckpointError) as caught:
        CheckpointManager(tmp_path, TrainingState(*run_parts())).resume()
    assert str(caught.value).startswith(f"{path} is damaged")
    assert str(caught.value).isprintable()


def test_a_later_file_that_cannot_be_read_does_not_push_out_what_is_saved(tmp_path):
    junk = tmp_path / "checkpoint_epoch_99999999999.pyth"
    save(tmp_path, 1)
    for name in (junk, tmp_path / "checkpoint_epoch_00009_step_000003.pyth"):
        name.write_bytes(b"junk")
    manager = CheckpointManager(tmp_path, TrainingState(*run_parts()), keep=1)
    assert manager.resume().position.epoch == 1
    for position in (Position(1, 5), Position(1, 10), Position(2)):
        path = manager.save(position)
        assert path.exists()
        assert latest_checkpoint(tmp_path)[0] == path
    assert junk.read_bytes() == b"junk"
