"""Distillation: the loss by hand, its weight, and that the teacher does not change."""

import json

import pytest
import torch
from torch import nn

from tests.engine.in_memory import NUM_CLASSES, TinyNet
from tests.engine.test_train import make_run, read_stats, run_train, weights
from videofib.engine.distill import Distillation
from videofib.tracking.log import close_logging, setup_logging


class Fixed(nn.Module):
    """Returns the same logits for every clip."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, clips):
        return self.logits.expand(len(clips), -1)


def test_the_loss_is_hintons():
    temperature, taught = 2.0, torch.tensor([1.0, 0.0, -2.0])
    logits = torch.tensor([[0.5, 0.5, 0.0], [2.0, -1.0, 0.0]], requires_grad=True)
    distillation = Distillation(Fixed(*taught.tolist()), alpha=0.25, temperature=temperature)
    loss = distillation.loss(torch.zeros(2, 3, 2, 4, 4), logits)
    p, q = (taught / temperature).softmax(0), (logits.detach() / temperature).softmax(1)
    by_hand = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(loss, by_hand)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, temperature * (q - p) / 2)  # the paper's equation 2, times T², over B = 2
    assert distillation.combine(torch.tensor(8.0), torch.tensor(4.0)) == 7.0


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_a_student_learns_its_teachers_scores(tmp_path, amp_dtype):
    teacher = TinyNet(seed=5, drop=0.5).eval().requires_grad_(False)
    with torch.no_grad():
        teacher.head.weight *= 5
    before = weights(teacher)
    distillation = Distillation(teacher, alpha=1.0, temperature=2.0)
    model, loader, optimizer, recipe = make_run(distillation=distillation, amp_dtype=amp_dtype)
    setup_logging(tmp_path)
    run_train(model, loader, optimizer, recipe, epochs=10)
    close_logging()
    logged = [line["teacher_loss"] for line in read_stats(tmp_path) if line["_type"] == "train_epoch"]
    assert logged[-1] < 0.2 * logged[0]
    assert torch.equal(weights(teacher), before)
    assert not teacher.training


def test_the_teacher_is_given_the_same_clips_as_the_student():
    class Watching(Fixed):
        def forward(self, clips):
            seen.append(clips.clone())
            return super().forward(clips)

    seen, shown = [], []
    distillation = Distillation(Watching(*[0.0] * NUM_CLASSES), alpha=0.5, temperature=1.0)
    model, loader, optimizer, recipe = make_run(distillation=distillation, accumulation=2)
    model.register_forward_pre_hook(lambda module, args: shown.append(args[0].clone()))
    run_train(model, loader, optimizer, recipe, epochs=1)
    assert len(seen) == len(loader)
    assert all(torch.equal(one, other) for one, other in zip(seen, shown, strict=True))


def test_no_figure_mentions_a_teacher_where_there_is_none(tmp_path):
    setup_logging(tmp_path)
    run_train(*make_run(), epochs=1)
    close_logging()
    assert "teacher" not in json.dumps(read_stats(tmp_path))
