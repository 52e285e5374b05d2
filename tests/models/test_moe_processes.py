"""Experts in several processes, which share the clips of a batch or the tokens of a clip, are those of one process."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tests.models.test_moe import SMALL, TASKS
from videofib.attention import ContextGroup
from videofib.distributed import processes
from videofib.distributed.fsdp import full_tensor, shard
from videofib.distributed.launch import launch
from videofib.models import TimeSformer

MODEL = SMALL | dict(num_heads=4, joint_attention="fibottention", mixer_options={"fibottention": {"w_min": 2}})
WEIGHTS = {"balance": 0.3, "z": 0.1}


def loss_of(model, clips, labels, **task):
    logits, losses = model(clips, with_losses=True, **task)
    return F.cross_entropy(logits, labels) + sum(weight * losses[name] for name, weight in WEIGHTS.items())


def model_of(tasks=None, **experts):
    torch.manual_seed(0)
    model = TimeSformer(**MODEL, experts={"num": 5, "every": 1, **experts}, tasks=tasks).double().train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def compare(found, expected, what):
    for name, value in expected.items():
        try:
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10)
        except AssertionError as error:
            raise AssertionError(f"{what}, {name}: {error}") from None


def gradients(model):
    return {name: full_tensor(p.grad) for name, p in model.named_parameters()}


def in_processes():
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(2 * world, 3, 2, 32, 32, dtype=torch.float64, generator=generator)
    labels = torch.arange(2 * world) % 2
    own = slice(2 * rank, 2 * rank + 2)
    for recompute in (False, True):
        model = model_of()
        model.blocks.recompute = "block" if recompute else None
        alone = without_processes(copy.deepcopy(model), clips, labels)
        for what, wrap in (("ddp", processes.replicate), ("fsdp", shard)):
            each = copy.deepcopy(model)
            replica = wrap(each)  # kept until its gradients are averaged
            loss_of(replica, clips[own], labels[own]).backward()
            compare(gradients(each), alone, what)
        shared = copy.deepcopy(model)
        shared.share_tokens(ContextGroup())
        replica = processes.replicate(shared)
        loss_of(replica, clips, labels).backward()
        compare(gradients(shared), alone, "slices")
    several_tasks(clips, labels, own)
    with pytest.raises(ValueError, match=r"cannot add noise to the logits of experts.*noise=1.0"):
        model_of(noise=1.0).share_tokens(ContextGroup())


def several_tasks(clips, labels, own):
    """Processes wait for gradients of all parameters, also of those that the task of a step does not use."""
    model = model_of(TASKS, routing="multi_gate", per_task=3)
    replica = processes.replicate(model)
    for task in TASKS:
        replica.zero_grad()
        alone = without_processes(copy.deepcopy(model), clips, labels, task=task)
        loss_of(replica, clips[own], labels[own], task=task).backward()
        compare(gradients(model), alone, task)


def without_processes(model, clips, labels, **task):
    """The gradients of one process that has the batch of all."""
    from videofib.models import moe

    summed, moe.summed_over_processes = moe.summed_over_processes, lambda values: values
    model.zero_grad()
    loss_of(model, clips, labels, **task).backward()
    moe.summed_over_processes = summed
    return gradients(model)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_balance_experts_over_the_batch_of_all(count):
    launch(in_processes, processes=count)
