"""Between two lines of figures the host never waits for the device, and processes exchange nothing but gradients.

On a CPU nothing shows that the host waits, so the operations are watched that would make it wait for a GPU: those whose
result, or the shape of whose result, is needed on the host (torch tags them), and those that copy a tensor to the host.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.in_memory import NUM_CLASSES, Loader, make_videos
from videofib.checkpoint.manager import NoCheckpoints
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.distill import Distillation
from videofib.engine.objective import Supervised
from videofib.engine.optim import build_optimizer, parameter_groups
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import train
from videofib.models import TimeSformer

STEPS, LOG_PERIOD, BATCH = 50, 25, 2  # videos a batch, over all processes
_TO_HOST = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__"}


class Watch:
    """What was done while the host handled each batch: names of operations by step, counted from 1."""

    def __init__(self):
        self.step, self.active = 0, True
        self.waits: dict[int, Counter] = {}
        self.collectives: dict[int, Counter] = {}

    def note(self, found, name):
        if self.active:
            found.setdefault(self.step, Counter())[name] += 1

    @contextmanager
    def watching(self):
        with _Operations(self), _Methods(self):
            yield


class _Operations(TorchDispatchMode):
    """Operations of the dispatcher, also those that C++ calls, such as the all-reduce of DDP."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional"):
            self.watch.note(self.watch.collectives, func.__name__)
        elif torch.Tag.data_dependent_output in func.tags or (
            torch.Tag.dynamic_output_shape in func.tags and not _indexes_by_number(func, args)
        ):
            self.watch.note(self.watch.waits, func.__name__)
        return func(*args, **(kwargs or {}))


def _indexes_by_number(func, args):
    """Whether this indexes by integers; a mask would have to be counted first."""
    return func is torch.ops.aten.index.Tensor and all(index is None or index.dtype != torch.bool for index in args[1])


class _Methods(TorchFunctionMode):
    """Methods that read a tensor's memory on a CPU without any operation, where on a GPU they would copy it."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _TO_HOST or (name == "to" and "cpu" in args):
            self.watch.note(self.watch.waits, name)
        return func(*args, **(kwargs or {}))


class Counted(Loader):
    """Sets the step of the watch, and turns it off while the loader itself works, which is on the host anyway."""

    watch: Watch

    def __iter__(self):
        batches = super().__iter__()
        for step in range(1, len(self) + 1):
            self.watch.active = False
            batch = next(batches)
            self.watch.step, self.watch.active = step, True
            yield batch
        self.watch.step += 1


def tiny_transformer():
    torch.manual_seed(0)
    return TimeSformer(
        img_size=4,
        patch_size=2,
        num_classes=NUM_CLASSES,
        num_frames=2,
        embed_dim=12,
        depth=1,
        num_heads=2,
        drop_path_rate=0.1,
        attention_type="joint_space_time",
        joint_attention="fibottention",
        attention_backend="gather",
    )


def watched_run(method, **options):
    """Train an epoch of 50 steps; returns the watch."""
    model = tiny_transformer()
    optimizer = build_optimizer(parameter_groups(model, 0.1, layer_decay=0.9), method, lr=0.0)
    rank, world = processes.rank(), processes.world_size()
    loader = Counted(*make_videos(STEPS * BATCH), range(rank, STEPS * BATCH, world), BATCH // world)
    watch = loader.watch = Watch()
    teacher = tiny_transformer().eval().requires_grad_(False)
    recipe = Recipe(
        lr_at=lambda epoch: 0.001,
        objective=Supervised(nn.CrossEntropyLoss(), Distillation(teacher, 0.5, 2.0)),
        clip_grad_norm=1.0,
        ema=ModelEmaV3(model, decay=0.9),
        **options,
    )
    schedule = Schedule(1, log_period=LOG_PERIOD)
    with watch.watching():
        train(model, loader, optimizer, recipe, schedule, checkpoints=NoCheckpoints(), validate=dict)
    return watch


def between_reads(found):
    """What was found at steps after which no figures are due; the end of the epoch follows the last step."""
    return {step: dict(names) for step, names in found.items() if step not in (LOG_PERIOD, STEPS, STEPS + 1)}


@pytest.mark.parametrize(("method", "accumulation"), [("adamw", 1), ("sgd", 2)])
def test_the_host_waits_for_the_device_where_figures_are_logged_and_nowhere_else(method, accumulation):
    watch = watched_run(method, accumulation=accumulation)
    assert between_reads(watch.waits) == {}
    assert watch.waits[LOG_PERIOD]["tolist"]  # so the watch sees it where it happens
    assert watch.collectives == {}


def test_an_optimizer_that_cannot_skip_on_the_device_makes_the_host_wait_once_a_step():
    watch = watched_run("lion")
    assert set(watch.waits) == set(range(1, STEPS + 1)) | {STEPS + 1}
    assert all(names == {"item": 1, "_local_scalar_dense.default": 1} for names in between_reads(watch.waits).values())


def in_two_processes(folder):
    watches = {method: watched_run(method) for method in ("adamw", "sgd")}
    found = {method: (watch.waits, watch.collectives) for method, watch in watches.items()}
    torch.save(found, folder / f"{processes.rank()}.pt")


def test_two_processes_exchange_gradients_and_nothing_else(tmp_path):
    launch(in_two_processes, (tmp_path,), processes=2)
    for rank in range(2):
        for waits, collectives in torch.load(tmp_path / f"{rank}.pt", weights_only=False).values():
            waits, collectives = between_reads(waits), between_reads(collectives)
            del waits[0], collectives[0]  # before the first step DDP compares the processes' models
            assert waits == {}
            assert collectives.pop(2)["allreduce_.default"] == 1  # and DDP rearranges its buckets, once
            assert all(names == {"allreduce_.default": 1} for names in collectives.values())
            assert len(collectives) == STEPS - 3
