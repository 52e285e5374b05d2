"""Weights of classes: the losses against sums written out, and the same updates however a batch is divided."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.in_memory import Loader, TinyNet, make_videos
from videofib.checkpoint.manager import NoCheckpoints
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.losses import BinaryCrossEntropy, CrossEntropy, balanced_positive_weights, balanced_weights
from videofib.engine.objective import Supervised
from videofib.engine.optim import build_optimizer
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import train

WEIGHTS = torch.tensor([0.5, 3.0, 0.0, 1.25, 2.0])
LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 4, 2, 3, 1, 1, 0])


def by_hand(logits, targets, weights):
    """The mean over clips of −Σ w p log q."""
    found = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(map(math.exp, row))
        terms = zip(weights.tolist(), target, row, strict=True)
        found.append(-sum(weight * share * math.log(math.exp(value) / total) for weight, share, value in terms))
    return sum(found) / len(found)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_class_indices_smoothed_or_not(smoothing):
    targets = (1 - smoothing) * nn.functional.one_hot(LABELS, 5) + smoothing / 5
    loss = CrossEntropy(smoothing, WEIGHTS)
    assert loss(LOGITS, LABELS).item() == pytest.approx(by_hand(LOGITS, targets, WEIGHTS), rel=1e-5)
    sharp = by_hand(LOGITS, nn.functional.one_hot(LABELS, 5), WEIGHTS)
    assert loss.each(LOGITS, LABELS).mean().item() == pytest.approx(sharp, rel=1e-5)
    assert CrossEntropy(smoothing, torch.ones(5))(LOGITS, LABELS).item() == pytest.approx(
        CrossEntropy(smoothing)(LOGITS, LABELS).item(), rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_cross_entropy_of_mixed_labels_in_any_precision(dtype):
    mixed = torch.rand(7, 5, generator=torch.Generator().manual_seed(3)).softmax(dim=1)
    logits = LOGITS.to(dtype).detach().clone().requires_grad_()
    loss = CrossEntropy(0.0, WEIGHTS)(logits, mixed.double() if dtype == torch.float64 else mixed)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(by_hand(logits.double(), mixed, WEIGHTS), rel=1e-5)
    loss.backward()
    # d/dlogit_k of −Σ_c w_c p_c log q_c is q_k · Σ_c w_c p_c − w_k p_k
    weighted = mixed * WEIGHTS
    expected = (logits.detach().float().softmax(1) * weighted.sum(1, keepdim=True) - weighted) / 7
    torch.testing.assert_close(logits.grad.float(), expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)


def test_binary_cross_entropy_weighs_what_a_clip_has():
    targets = (LOGITS.roll(1, 0) > 0).float()
    found = []
    for row, target in zip(LOGITS.tolist(), targets.tolist(), strict=True):
        terms = zip(WEIGHTS.tolist(), target, row, strict=True)
        signed = [(weight, value) if has else (1.0, -value) for weight, has, value in terms]
        found.append(sum(weight * math.log(1 + math.exp(-value)) for weight, value in signed) / 5)
    loss = BinaryCrossEntropy(WEIGHTS)
    assert loss.each(LOGITS, targets).tolist() == pytest.approx(found, rel=1e-5)
    assert loss(LOGITS, targets).item() == pytest.approx(sum(found) / 7, rel=1e-5)
    assert loss(LOGITS.bfloat16(), targets).dtype == torch.float32


def test_balanced_weights_are_those_of_scikit_learn_and_classes_without_videos_count_one():
    labels = np.repeat([0, 1, 3], [50, 7, 1])
    counts = torch.from_numpy(np.bincount(labels, minlength=5))
    weights = balanced_weights(counts)
    # compute_class_weight("balanced") gives videos / (classes with videos x videos of the class)
    assert weights.tolist() == pytest.approx([58 / (3 * 50), 58 / (3 * 7), 1, 58 / 3, 1])
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert len({round(value, 9) for value in (weights * counts)[[0, 1, 3]].tolist()}) == 1


def test_balanced_positive_weights_balance_each_class_and_leave_those_that_cannot_be():
    # of ten videos: two, nine, none, all
    weights = balanced_positive_weights(torch.tensor([2, 9, 0, 10]), 10)
    assert weights.tolist() == pytest.approx([4, 1 / 9, 1, 1])


def train_part(folder, batch, accumulation, several):
    """Three optimizer steps of four videos each, however they are divided."""
    rank, world = processes.rank(), processes.world_size()
    model = TinyNet(seed=1).double()
    views, labels = make_videos(12)
    weights = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    criterion = CrossEntropy(0.1, weights)
    if several:
        labels = (views.mean(dim=(1, 3, 4, 5)) > 0).double()
        criterion = BinaryCrossEntropy(weights)
    loader = Loader(views.double(), labels, range(rank, 12, world), batch)
    optimizer = build_optimizer([{"params": list(model.parameters())}], "sgd", lr=0.0, momentum=0.9)
    recipe = Recipe(lambda epoch: 0.1, Supervised(criterion), judge=None, accumulation=accumulation)
    train(model, loader, optimizer, recipe, Schedule(1), checkpoints=NoCheckpoints(), validate=dict)
    if processes.is_main():
        torch.save(torch.cat([p.detach().flatten() for p in model.parameters()]), folder / f"{world}.pt")
    processes.barrier()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train_both(folder):
    for several in (False, True):
        (folder / str(several)).mkdir(exist_ok=True)
        train_part(folder / str(several), 2, 1, several)


def test_processes_and_accumulated_batches_take_the_steps_of_one_large_batch(tmp_path):
    launch(train_both, (tmp_path,), processes=2)
    for several in (False, True):
        whole = train_part(tmp_path / str(several), 4, 1, several)
        for batch in (1, 2):
            divided = train_part(tmp_path / str(several), batch, 4 // batch, several)
            torch.testing.assert_close(divided, whole, rtol=0, atol=1e-12)
        together = torch.load(tmp_path / str(several) / "2.pt")
        torch.testing.assert_close(together, whole, rtol=0, atol=1e-12)
        plain = train_part(tmp_path / str(several), 4, 1, several=not several)
        assert not torch.allclose(plain, whole, atol=1e-3)
