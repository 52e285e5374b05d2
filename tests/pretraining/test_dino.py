"""Self-distillation: losses of a slow loop, centers over processes, the moving teacher, local views."""

import pytest
import torch
from torch import distributed

from videofib.distributed.launch import launch
from videofib.models import TimeSformer
from videofib.pretraining.dino import Branch, MatchedViews, SelfDistillation
from videofib.pretraining.dino_head import PrototypeHead
from videofib.pretraining.dino_loss import DinoLoss
from videofib.pretraining.patch_head import PatchHead
from videofib.pretraining.views import LocalViews

SIZES = dict(img_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=3, num_classes=3,
             attention_type="joint_space_time", joint_attention="fibottention", pooling="mean",
             mixer_options={"fibottention": {"w_min": 2}})  # fmt: skip
NO_STEP_SKIPPED = torch.tensor(False)


def distillation(patches=True, **changes):
    torch.manual_seed(0)
    heads = [PatchHead(24, 3), PrototypeHead(24, 7, 16, 8)] if patches else []
    student = Branch(TimeSformer(**{**SIZES, **changes}), PrototypeHead(24, 10, 16, 8), *heads)
    return SelfDistillation(student, DinoLoss(10, 7 if patches else 0)).train()


def batch(videos=3):
    """Clips as the trainer gives them, two of each video, and what the loader gave."""
    return torch.randn(2 * videos, 3, 4, 32, 32), {"views": torch.empty(videos, 2)}


# ---- the loss


def slow_losses(loss, student, teacher, student_patches, teacher_patches, temp):
    def entropy(target, scores, center):
        target = ((target - center) / temp).softmax(0)
        return -(target * (scores / loss.student_temp).log_softmax(0)).sum()

    terms = []
    for a in range(2):
        for b in range(len(student)):
            if a != b:
                each = [entropy(t, s, loss.center) for t, s in zip(teacher[a], student[b], strict=True)]
                terms.append(sum(each) / len(each))
    patches = []
    for own, theirs in zip(student_patches, teacher_patches, strict=True):
        each = [entropy(t, s, loss.patch_center) for t, s in zip(theirs.flatten(0, 1), own.flatten(0, 1), strict=True)]
        patches.append(sum(each) / len(each))
    return sum(terms) / len(terms), sum(patches) / len(patches)


def scores(seed=1):
    torch.manual_seed(seed)
    views = [[torch.randn(3, 10) for _ in range(4)] for _ in range(2)]
    patches = [[torch.randn(3, count, 7) for count in (6, 6, 2, 2)] for _ in range(2)]
    return *views, *patches


def test_the_losses_are_those_of_a_slow_loop():
    loss = DinoLoss(10, 7, patch_weight=0.3)
    loss.center.normal_()
    loss.patch_center.normal_()
    given = scores()
    expected = slow_losses(loss, *given, temp=0.04)
    found = loss(*given)
    torch.testing.assert_close((found["class_loss"], found["patch_loss"]), expected)
    torch.testing.assert_close(found["loss"], expected[0] + 0.3 * expected[1])


def test_centers_are_moving_averages_of_the_mean_score():
    loss, (student, teacher, *patches) = DinoLoss(10, 7), scores()
    loss(student, teacher, *patches)
    torch.testing.assert_close(loss.center, 0.1 * torch.cat(teacher).mean(0))
    torch.testing.assert_close(loss.patch_center, 0.1 * torch.cat([p.flatten(0, 1) for p in patches[1]]).mean(0))
    before = loss.center.clone()
    loss.eval()(student, teacher, *patches)
    assert torch.equal(loss.center, before), "evaluation leaves them"
    teacher[0][0, 0] = torch.nan
    loss.train()(student, teacher, *patches)
    assert torch.equal(loss.center, before), "so do scores that are not finite"


def _centers(out):
    rank = distributed.get_rank()
    loss, (student, teacher, *patches) = DinoLoss(10, 7), scores(seed=rank)
    loss(student, teacher, *patches)
    torch.save([loss.center, loss.patch_center], out / f"{rank}.pt")


def test_centers_are_over_all_processes(tmp_path):
    launch(_centers, (tmp_path,), processes=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(map(torch.equal, one, two))
    teachers = [view for seed in range(2) for view in scores(seed)[1]]
    torch.testing.assert_close(one[0], 0.1 * torch.cat(teachers).mean(0))


@pytest.mark.parametrize(
    ("epochs", "expected"), [(0, [0.07] * 3), (1, [0.04, 0.07, 0.07]), (3, [0.04, 0.055, 0.07, 0.07])]
)
def test_the_temperature_rises_from_epoch_to_epoch(epochs, expected):
    loss = DinoLoss(3, teacher_temp=0.07, warmup_teacher_temp=0.04, warmup_epochs=epochs)
    assert [loss.teacher_temp_at(epoch + 0.9) for epoch in range(len(expected))] == pytest.approx(expected)


def test_prototypes_are_compared_by_their_direction_and_may_be_frozen():
    head, x = PrototypeHead(24, 10, 16, 8), torch.randn(4, 24)
    before = head(x)
    assert before.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.prototypes.mul_(5)
    torch.testing.assert_close(head(x), before)
    head(x, learns=False).square().sum().backward()
    assert not head.prototypes.grad.any()
    assert head.mlp[0].weight.grad.any()
    head(x).square().sum().backward()
    assert head.prototypes.grad.any()


# ---- student and teacher


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize("changes", [{}, {"attention_type": "divided_space_time"}], ids=str)
def test_all_parameters_of_the_student_learn_and_none_of_the_teacher(patches, changes):
    model = distillation(patches, **changes)
    objective = MatchedViews(model, LocalViews(3, 16, 2), epochs=2, frozen_epochs=0)
    clips, given = batch()
    outcome = objective(model, clips, None, given)
    outcome.loss.backward()
    assert set(outcome.parts) == set(objective.parts)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad == (
            name.startswith("student.") and not (patches and name.startswith("student.encoder.norm."))
        )


def test_the_teacher_moves_towards_the_student():
    model = distillation()
    objective = MatchedViews(model, LocalViews(0, 16, 2), epochs=4, momentum=0.9)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in model.teacher_ema.parameters()]
    objective.after_step(model, 2.0, torch.tensor(True))
    assert all(map(torch.equal, model.teacher_ema.parameters(), before)), "a step that is skipped changes nothing"
    objective.after_step(model, 2.0, NO_STEP_SKIPPED)
    momentum = 1 - 0.1 * 0.5  # half-way along half a cosine
    for teacher, was, student in zip(model.teacher_ema.parameters(), before, model.student.parameters(), strict=True):
        torch.testing.assert_close(teacher, momentum * was + (1 - momentum) * student)
    assert model.epoch == 2.0
    assert [objective.momentum_at(epoch) for epoch in (0, 4, 5)] == pytest.approx([0.9, 1.0, 1.0])


def test_the_state_dict_has_all_that_the_objective_knows():
    """A second model with that state continues in the same way."""
    one, two = distillation(), distillation()
    first = MatchedViews(one, LocalViews(2, 16, 2), epochs=3, frozen_epochs=1)
    optimizers = []

    def step(model, objective, epoch, seed):
        torch.manual_seed(seed)
        clips, given = batch()
        objective(model, clips, None, given).loss.backward()
        if len(optimizers) < 2:
            optimizers.append(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
        optimizer = optimizers[0 if model is one else -1]
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(model, epoch, NO_STEP_SKIPPED)

    step(one, first, 1.0, seed=1)
    two.load_state_dict(one.state_dict())
    second = MatchedViews(two, LocalViews(2, 16, 2), epochs=3, frozen_epochs=1)
    step(one, first, 1.5, seed=2)
    optimizers.append(torch.optim.SGD([p for p in two.parameters() if p.requires_grad], lr=0.1))
    step(two, second, 1.5, seed=2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_the_student_learns_the_targets_of_a_teacher_that_stands_still():
    model = distillation()
    objective = MatchedViews(model, LocalViews(2, 16, 2), epochs=40, momentum=1.0, frozen_epochs=0)
    model.loss.center_momentum = 1.0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    clips, given = batch(4)
    losses = []
    for step in range(40):
        loss = objective(model, clips, None, given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(model, step + 1.0, NO_STEP_SKIPPED)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_one_clip_of_each_video_is_refused():
    model = distillation()
    with pytest.raises(ValueError, match="two clips of each video are compared, got 1"):
        MatchedViews(model, LocalViews(0, 16, 2), epochs=1)(
            model, torch.randn(2, 3, 4, 32, 32), None, {"views": torch.empty(2, 1)}
        )


# ---- local views


def test_local_views_are_pieces_of_their_clips():
    """A clip whose values are its coordinates shows which part of it a view is."""
    t, h, w = torch.meshgrid(torch.arange(6.0), torch.arange(20.0), torch.arange(30.0), indexing="ij")
    clips = torch.stack((t, h, w)).expand(8, -1, -1, -1, -1)
    torch.manual_seed(0)
    views = LocalViews(1, 8, 3, (0.1, 0.2)).cut(clips)
    assert views.shape == (8, 3, 3, 8, 8)
    frames = views[:, 0].flatten(2).round(decimals=3)
    assert (frames == frames[:, :, :1]).all(), "whole frames"
    assert (frames[:, 1:, 0] - frames[:, :-1, 0] == 1).all(), "neighbouring ones"
    for axis, size in ((1, 20), (2, 30)):
        along = views[:, axis].diff(dim=3 if axis == 2 else 2)
        sides = 8 * along.mean(dim=(1, 2, 3))
        assert ((sides**2 / 600 > 0.09) & (sides**2 / 600 < 0.21)).all()
        assert (views[:, axis] >= 0).all()
        assert (views[:, axis] <= size - 1).all()
    assert len(set(frames[:, 0, 0].tolist())) > 1, "each clip has a piece of its own"


def test_the_full_clip_is_itself():
    clips = torch.randn(2, 3, 4, 12, 12)
    torch.testing.assert_close(LocalViews(1, 12, 4, (1.0, 1.0)).cut(clips), clips, rtol=0, atol=1e-5)


def test_local_views_come_from_both_clips_in_turn():
    clips = [torch.zeros(1, 3, 4, 8, 8), torch.ones(1, 3, 4, 8, 8)]
    assert [view.mean().item() for view in LocalViews(3, 4, 2)(clips)] == [0, 1, 0]


def test_views_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match=r"scale=\(0.5, 0.2\)"):
        LocalViews(1, 8, 2, (0.5, 0.2))
    with pytest.raises(ValueError, match="views of 5 frames cannot be cut from clips of 4"):
        LocalViews(1, 8, 5).cut(torch.zeros(1, 3, 4, 8, 8))
