"""Checkpoints are read as they were written, and bad ones are refused by name."""

import os
import random
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from videofib.checkpoint.file import (
    START,
    CheckpointError,
    ModelDescription,
    Position,
    TrainingState,
    load_checkpoint,
    load_weights,
    restore,
    write_checkpoint,
)
from videofib.engine.optim import build_optimizer


def run_parts(width=3, classes=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def write(path, model, optimizer, **description):
    write_checkpoint(path, TrainingState(model, optimizer), Position(1), ModelDescription(**description))
    return path


def take_step(model, optimizer):
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_run_continues_as_if_never_interrupted(tmp_path):
    model, optimizer = run_parts()
    ema = ModelEmaV3(model, decay=0.5)
    take_step(model, optimizer)
    ema.update(model)
    path, state = tmp_path / "run.pyth", TrainingState(model, optimizer, ema=ema.module)
    write_checkpoint(path, state, Position(3, 5, [{"meter": {"loss": 0.5}}]), ModelDescription("RNG_SEED: 0\n"))

    other, other_optimizer = run_parts()
    other_ema = ModelEmaV3(other, decay=0.5)
    checkpoint = load_checkpoint(path)
    assert checkpoint["config"] == "RNG_SEED: 0\n"
    assert (checkpoint["epoch"], checkpoint["step"], checkpoint["states"]) == (3, 5, [{"meter": {"loss": 0.5}}])
    restore(checkpoint, path, TrainingState(other, other_optimizer, ema=other_ema.module))
    take_step(model, optimizer)
    take_step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), other_ema.module.parameters(), strict=True))


def test_resuming_keeps_the_optimizers_own_options(tmp_path):
    model, optimizer = run_parts()
    take_step(model, optimizer)
    path = write(tmp_path / "run.pyth", model, optimizer)
    changed = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.7)
    restore(load_checkpoint(path), path, TrainingState(model, changed))
    assert changed.param_groups[0]["weight_decay"] == 0.7
    assert changed.state_dict()["state"][0]["step"] == 1


def test_the_scale_of_the_loss_is_resumed(tmp_path):
    """Where gradients overflow it is halved; a resumed run that began with the first one again would lose steps."""

    def scaler(**options):
        return torch.amp.GradScaler("cpu", **options)

    model, optimizer = run_parts()
    grown = scaler(init_scale=2.0**10)
    grown.load_state_dict({**grown.state_dict(), "scale": 2.0**7, "_growth_tracker": 5})
    path = tmp_path / "run.pyth"
    write_checkpoint(path, TrainingState(model, optimizer, grown), Position(1))
    later = scaler(init_scale=2.0**10)
    restore(load_checkpoint(path), path, TrainingState(model, optimizer, later))
    assert (later.get_scale(), later.state_dict()["_growth_tracker"]) == (2.0**7, 5)
    restore(load_checkpoint(path), path, TrainingState(model, optimizer))  # now without one
    off = scaler(enabled=False)
    write_checkpoint(path, TrainingState(model, optimizer, off), Position(1))
    restore(load_checkpoint(path), path, TrainingState(model, optimizer, later))  # saved without one
    assert later.get_scale() == 2.0**7


def test_a_run_begins_at_the_first_batch_of_the_first_epoch():
    assert (START.epoch, START.step, list(START.states)) == (0, 0, [])


def test_another_optimizer_is_refused(tmp_path):
    model, optimizer = run_parts()
    path = write(tmp_path / "run.pyth", model, optimizer)
    groups = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    with pytest.raises(CheckpointError, match="another optimizer"):
        restore(load_checkpoint(path), path, TrainingState(model, groups))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    model, optimizer = run_parts()
    take_step(model, optimizer)
    path = write(tmp_path / "run.pyth", model, optimizer, config="RNG_SEED: 0\n" * 50)
    written, content, rng, refused = path.read_bytes(), load_checkpoint(path), random.Random(0), []
    for _ in range(300):
        damaged = bytearray(written)
        damaged[rng.randrange(len(written))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(load_checkpoint(path), content)  # such as one in a gap between two tensors
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 150
    assert not any("\n" in line for line in refused)
    offset = written.index(model[0].weight.detach().numpy().tobytes())
    path.write_bytes(written[:offset] + b"\0" * 8 + written[offset + 8 :])
    torch.load(path)  # takes it
    with pytest.raises(CheckpointError, match=r"run\.pyth is damaged: \S+ is not what was written"):
        load_checkpoint(path)


FILL = """
import resource, sys
from tests.checkpoint.test_file import run_parts
from videofib.checkpoint.file import CheckpointError, Position, TrainingState
from videofib.checkpoint.manager import CheckpointManager

if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    for epoch in range(1, 10):
        state = TrainingState(*run_parts(width=10 if epoch < 3 else 500_000))
        CheckpointManager(sys.argv[1], state).save(Position(epoch))
except CheckpointError as error:
    print(error)
print(sorted(path.name for path in __import__("pathlib").Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.parametrize("full", ["limit", "tmpfs"])
def test_a_full_disk_is_reported_in_one_line_and_leaves_the_old_ones(tmp_path, full):
    """A process may not write larger files; and, where one may mount it, a real file system of one megabyte."""
    command = [sys.executable, "-c", FILL, tmp_path, full]
    if full == "tmpfs":
        mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(tmp_path)]
        if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode:
            pytest.skip("no file system may be mounted here")
        command = [*mount, *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    reason = {"limit": "File too large", "tmpfs": "No space left on device"}[full]
    said, files = done.stdout.splitlines()
    assert said == f"cannot write the checkpoint {tmp_path}/checkpoint_epoch_00003.pyth: {reason}"
    assert files == "['checkpoint_epoch_00001.pyth', 'checkpoint_epoch_00002.pyth']"


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path):
    torch.save({"model_state": Hostile(tmp_path / "owned")}, tmp_path / "bad.pyth")
    with pytest.raises(CheckpointError, match=r"bad\.pyth"):
        load_checkpoint(tmp_path / "bad.pyth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pyth")
    with pytest.raises(CheckpointError, match="not a videofib checkpoint"):
        load_checkpoint(tmp_path / "other.pyth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pyth"):
        load_checkpoint(tmp_path / "gone.pyth")


def test_weights_that_do_not_fit_are_named_with_both_shapes():
    ours, _ = run_parts(classes=2)
    theirs, _ = run_parts(classes=5)
    state = theirs.state_dict()
    del state["0.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(ours, state, "theirs.pyth")
    for words in (
        "theirs.pyth",
        "1.weight is (5, 3) there and (2, 3) here",
        "0.bias is missing",
        "extra is unexpected",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("biases", "named"),
    [
        ([True], "0.weight, 0.bias"),
        ([True, False], "0.weight, 0.bias, 1.weight"),
        ([True, True], "0.weight, 0.bias, 1.weight, …"),
    ],
)
def test_a_model_without_memory_is_refused_by_the_names_of_a_few_parameters(biases, named):
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(1, 1, bias=bias) for bias in biases))
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, {}, "theirs\x1b.pyth")
    assert str(caught.value).startswith(r"theirs\x1b.pyth cannot be loaded into a model on the meta device")
    assert str(caught.value).endswith(f"which has no memory ({named}); build it on the CPU or a GPU")


def test_the_name_of_a_damaged_entry_is_escaped(tmp_path):
    path = write(tmp_path / "run.pyth", *run_parts())
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]  # of all that torch writes
        archive.writestr(f"{folder}/\x1b[2J", b"what clears the screen")
    path.write_bytes(path.read_bytes().replace(b"clears", b"hidden"))
    with pytest.raises(CheckpointError, match=r"run\.pyth is damaged: \S+/\\x1b\[2J is not what was written$"):
        load_checkpoint(path)


def test_eight_mistakes_are_listed_and_the_others_counted():
    model = nn.Linear(1, 1)
    state = {**model.state_dict(), **{f"extra{i}": torch.zeros(1) for i in range(8)}}
    with pytest.raises(CheckpointError, match=r"extra6 is unexpected; extra7 is unexpected$"):
        load_weights(model, state, "theirs.pyth")
    state |= {f"later{i}": torch.zeros(1) for i in range(3)}
    with pytest.raises(CheckpointError, match=r"extra7 is unexpected and 3 more$"):
        load_weights(model, state, "theirs.pyth")


def test_a_failed_write_says_so_and_leaves_nothing(tmp_path):
    model, optimizer = run_parts()
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        write(blocked / "run.pyth", model, optimizer)


def test_the_reason_of_a_failed_write_is_the_systems_latest(tmp_path):
    """Making the folders above tries the lowest one first, so that an error of a missing one lies below."""
    folder = tmp_path / "new" / ("x" * 300)
    with pytest.raises(CheckpointError, match=r"run\.pyth: File name too long$"):
        write(folder / "run.pyth", *run_parts())


class Unwritable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_where_the_system_gives_no_reason_the_librarys_own_words_are_shown(tmp_path, kind):
    states = [{"meter": Unwritable(kind("words of the library"))}]
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*run\.pyth: words of the library$"):
        write_checkpoint(tmp_path / "run.pyth", TrainingState(*run_parts()), Position(1, 1, states))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_carries_what_using_its_model_takes(tmp_path):
    about = {"classes": ("walk", "wave"), "input": {"num_frames": 8, "target_fps": 30.0, "mean": [0.45, 0.45, 0.45]}}
    content = load_checkpoint(write(tmp_path / "run.pyth", *run_parts(), config="RNG_SEED: 0\n", **about))
    assert content["classes"] == ["walk", "wave"]
    assert content["input"] == about["input"]
    assert content["versions"].keys() == {"videofib", "torch"}


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    path = write(tmp_path / "run.pyth", *run_parts())
    content = torch.load(path)
    for key in ("classes", "input", "step", "states"):
        del content[key]
    torch.save(content, path)
    content = load_checkpoint(path)
    assert (content["classes"], content["input"], content["step"], content["states"]) == (None, None, 0, [])


@pytest.mark.parametrize(
    ("method", "plain_kind"),
    [("adamw", torch.optim.AdamW), ("sgd", partial(torch.optim.SGD, momentum=0.9, nesterov=True))],
)
def test_moments_of_plain_optimizers_are_loaded_into_fused_ones(tmp_path, method, plain_kind):
    """Checkpoints of earlier versions are of plain ones, which keep the number of steps on the CPU."""
    (plain_model, _), (fused_model, _) = run_parts(), run_parts()
    plain = plain_model, plain_kind(plain_model.parameters(), lr=0.1)
    fused = fused_model, build_optimizer([{"params": list(fused_model.parameters())}], method, lr=0.1)
    take_step(*plain)
    path = write(tmp_path / "run.pyth", *plain)
    assert load_checkpoint(path)["optimizer_state"]["param_groups"][0]["fused"] is None
    restore(load_checkpoint(path), path, TrainingState(*fused))
    assert fused[1].param_groups[0]["fused"]
    for parts in (plain, fused):
        take_step(*parts)
    for one, other in zip(plain[0].parameters(), fused[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_options_of_an_optimizer_are_known_when_its_moments_are_loaded(tmp_path, monkeypatch):
    """Fused ones keep the number of steps on the device; torch asks the options that it is given which they are."""
    model, optimizer = run_parts()
    take_step(model, optimizer)
    path = write(tmp_path / "run.pyth", model, optimizer)
    fused, seen = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True), []
    monkeypatch.setattr(fused, "load_state_dict", seen.append)
    restore(load_checkpoint(path), path, TrainingState(model, fused))
    assert seen[0]["param_groups"][0]["fused"] is True
