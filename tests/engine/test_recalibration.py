"""Feature recalibration distillation: the loss by hand, what learns, and an interrupted run that is resumed exactly."""

import copy

import pytest
import torch
from torch import nn

from videofib.checkpoint.file import Position, TrainingState, load_checkpoint, restore, write_checkpoint
from videofib.engine.optim import build_optimizer, parameter_groups
from videofib.engine.recalibration import Recalibration, logit_loss, token_loss
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained
from videofib.models.recovery import PREFIX, TokenTeacher, recover_tokens

SIZES = dict(
    img_size=16, patch_size=8, num_classes=3, num_frames=2, embed_dim=8, depth=3, num_heads=2, drop_path_rate=0.0
)


def pair(every=1, **options):
    """A slimmed model with its recovery, and its objective."""
    torch.manual_seed(0)
    options = {**SIZES, "attention_type": "joint_space_time", **options}
    unslimmed = TimeSformer(**options)
    model = TimeSformer(**options, slimming={"after": [1]})
    assert load_pretrained(model, unslimmed).untrained == tuple(n for n in model.state_dict() if "reductions" in n)
    recovery = recover_tokens(model, every)
    return model, Recalibration(nn.CrossEntropyLoss(), TokenTeacher(unslimmed, recovery.indices), temperature=2.0)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 2, 16, 16, generator=generator), torch.randint(3, (4,), generator=generator)


def test_the_losses_are_those_of_the_paper():
    torch.manual_seed(0)
    found, taught = [torch.randn(2, 3, 4) for _ in range(2)], [torch.randn(2, 3, 4) for _ in range(2)]
    by_hand = sum((a - b).square().sum() / 24 for a, b in zip(found, taught, strict=True)) / 2
    torch.testing.assert_close(token_loss(found, taught), by_hand)
    logits, target = torch.randn(2, 5), torch.randn(2, 5)
    p, q = (target / 1.5).softmax(1), (logits / 1.5).softmax(1)
    torch.testing.assert_close(logit_loss(logits, target, 1.5), 1.5**2 * (p * (p / q).log()).sum() / 2)


def test_tokens_are_compared_in_32_bits():
    half = torch.full((1, 2, 2), 200.0, dtype=torch.float16)
    loss = token_loss([half], [-half])
    assert loss.dtype == torch.float32
    assert loss == 400.0**2  # beyond float16


@pytest.mark.parametrize("attention_type", ["joint_space_time", "divided_space_time", "space_only"])
def test_all_of_the_student_learns_and_nothing_of_the_teacher(attention_type):
    model, objective = pair(attention_type=attention_type)
    before = copy.deepcopy(objective.teacher.state_dict())
    clips, labels = batch()
    outcome = objective(model.train(), clips, labels, {})
    outcome.loss.backward()
    expected = nn.functional.cross_entropy(outcome.logits, labels)
    expected = expected + 2 * outcome.parts["token_loss"] + 2 * outcome.parts["teacher_loss"]
    torch.testing.assert_close(outcome.loss, expected)
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    assert not silent
    assert not objective.teacher.model.training
    assert all(torch.equal(value, before[name]) for name, value in objective.teacher.state_dict().items())
    assert set(outcome.parts) == set(objective.parts)


def test_blocks_in_front_of_slimming_equal_the_teachers_at_first():
    model, objective = pair()
    clips, _ = batch()
    _, found = model.eval()(clips, recover=True)
    _, taught = objective.teacher(clips)
    assert torch.equal(found[0], taught[0])
    assert not torch.allclose(found[1], taught[1])


def steps(model, objective, optimizer, count, first=0):
    for step in range(first, first + count):
        clips, labels = batch(step)
        objective(model.train(), clips, labels, {}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_resumed_run_reaches_the_same_weights_and_recovery_lies_apart(tmp_path):
    def run():
        model, objective = pair()
        ema = copy.deepcopy(model)
        optimizer = build_optimizer(parameter_groups(model, 0.05), "adamw", lr=1e-2)
        return model, objective, optimizer, TrainingState(model, optimizer, ema=ema, training_only=(PREFIX,))

    model, objective, optimizer, _ = run()
    steps(model, objective, optimizer, 6)
    interrupted, objective, optimizer, state = run()
    steps(interrupted, objective, optimizer, 3)
    path = tmp_path / "checkpoint.pyth"
    write_checkpoint(path, state, Position(1))

    content = load_checkpoint(path)
    assert not any(name.startswith(PREFIX) for name in [*content["model_state"], *content["ema_state"]])
    assert set(content["training_state"]["model_state"]) == {n for n in model.state_dict() if n.startswith(PREFIX)}
    alone = TimeSformer(**SIZES, attention_type="joint_space_time", slimming={"after": [1]})
    assert load_pretrained(alone, path, part="model_state").fits  # nothing is unused

    resumed, objective, optimizer, state = run()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    restore(content, path, state)
    steps(resumed, objective, optimizer, 3, first=3)
    for (name, one), other in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_checkpoints_without_such_a_section_are_read(tmp_path):
    model = TimeSformer(**SIZES)
    state = TrainingState(model, build_optimizer(parameter_groups(model, 0.0), "adamw", lr=1e-3))
    path = tmp_path / "checkpoint.pyth"
    write_checkpoint(path, state, Position(1))
    content = torch.load(path, weights_only=True)
    del content["training_state"]
    torch.save(content, path)
    restore(load_checkpoint(path), path, state)
