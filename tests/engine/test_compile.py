"""Compiled training: the same weights under the same names, over sparse attention, and in several processes."""

import os
import shutil

import pytest
import torch
from torch import nn

from tests.engine.in_memory import NUM_CLASSES, Loader, TinyNet, make_videos
from videofib.checkpoint.file import START, Position
from videofib.checkpoint.manager import NoCheckpoints
from videofib.config import ConfigError, load_config
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.objective import Supervised
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import train
from videofib.models import TimeSformer
from videofib.run.preflight import check_compiler

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)


def make_model(backend=None):
    torch.manual_seed(0)
    model = TimeSformer(
        img_size=4,
        patch_size=2,
        num_classes=NUM_CLASSES,
        num_frames=2,
        embed_dim=24,
        depth=1,
        num_heads=3,
        attention_type="joint_space_time",
        joint_attention="fibottention",
    )
    if backend:
        model.compile(backend=backend, dynamic=False)  # as the training stage does
    return model


def run(model, start=START, epochs=2):
    """Three batches of four an epoch, over all processes, in two accumulated steps."""
    rank, world = processes.rank(), processes.world_size()
    loader = Loader(*make_videos(12), range(12), 4 // world)
    loader.order = list(range(rank, 12, world))
    train(
        model,
        loader,
        torch.optim.SGD(model.parameters(), lr=0.0),
        Recipe(lr_at=lambda epoch: 0.1, objective=Supervised(nn.CrossEntropyLoss()), accumulation=2),
        Schedule(epochs, log_period=10**6),
        checkpoints=NoCheckpoints(),
        validate=dict,
        start=start,
    )
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def train_process(folder):
    torch.set_num_threads(1)
    torch.save(run(make_model("aot_eager")), folder / f"{processes.rank()}.pt")


@needs_compiler
@pytest.mark.slow
def test_compiled_training_reaches_the_same_weights_in_one_process_and_in_two(tmp_path):
    plain, compiled = make_model(), make_model("inductor")
    assert list(plain.state_dict()) == list(compiled.state_dict())
    expected = run(plain)
    assert (expected - run(make_model(), epochs=0)).norm() > 0.1
    torch.testing.assert_close(run(compiled), expected, rtol=0, atol=1e-6)
    launch(train_process, (tmp_path,), processes=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(one, other)
    torch.testing.assert_close(one, expected, rtol=0, atol=1e-6)


@needs_compiler
@pytest.mark.slow
def test_a_resumed_compiled_run_draws_the_same_random_numbers():
    undisturbed, cut = TinyNet(drop=0.5), TinyNet(drop=0.5)
    undisturbed.compile()
    cut.compile()
    expected = run(undisturbed)
    run(cut, epochs=1)
    torch.rand(3)
    assert torch.equal(run(cut, start=Position(1)), expected)


def test_a_missing_compiler_is_reported_before_anything_is_read(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    cfg = load_config(None, ["TRAIN.COMPILE", "True"])
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and no-such-compiler is not installed"):
        check_compiler(cfg, torch.device("cpu"))
    check_compiler(cfg, torch.device("cuda"))
    check_compiler(load_config(), torch.device("cpu"))
