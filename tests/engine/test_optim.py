"""Which parameters decay, and the learning rate at hand-computed moments."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from videofib.config import KEYS
from videofib.engine.optim import build_optimizer, lr_at, parameter_groups, warmup_end
from videofib.engine.step import set_lr
from videofib.models import TimeSformer


class WithEmbeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def no_weight_decay(self):
        return {"cls_token"}


def test_only_weight_matrices_decay():
    model = WithEmbeddings()
    decayed, free = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert [id(p) for p in decayed["params"]] == [id(model.head.weight)]
    assert free["weight_decay"] == 0.0
    expected = {id(p) for p in (model.cls_token, model.norm.weight, model.norm.bias, model.head.bias)}
    assert {id(p) for p in free["params"]} == expected


def test_decay_all_puts_every_trainable_parameter_in_one_group():
    (group,) = parameter_groups(WithEmbeddings(), 0.05, decay_all=True)
    assert group["weight_decay"] == 0.05
    assert len(group["params"]) == 5


def test_a_free_parameter_keeps_its_value_without_gradient_and_a_decayed_one_shrinks():
    model = WithEmbeddings()
    optimizer = build_optimizer(parameter_groups(model, 0.5), "adamw", lr=0.1)
    before = model.norm.weight.detach().clone(), model.head.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model.norm.weight, before[0])
    torch.testing.assert_close(model.head.weight, before[1] * (1 - 0.1 * 0.5))


def test_optimizers_take_their_options():
    groups = parameter_groups(WithEmbeddings(), 0.1)
    sgd = build_optimizer(groups, "sgd", lr=0.3, momentum=0.8, nesterov=False)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.3, 0.8, False)
    adamw = build_optimizer(parameter_groups(WithEmbeddings(), 0.1), "adamw", lr=0.3, betas=[0.5, 0.6])
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.5, 0.6)
    with pytest.raises(ValueError, match="one of sgd, adamw, lamb, lion, got 'adagrad'"):
        build_optimizer(groups, "adagrad", lr=0.1)


@pytest.mark.parametrize("method", ["sgd", "adamw", "lamb", "lion"])
def test_every_optimizer_lowers_the_loss_and_loads_its_own_state(method):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(64, 4)
    target = x.sum(1, keepdim=True)
    optimizer = build_optimizer([{"params": list(model.parameters()), "weight_decay": 0.0}], method, lr=0.02)
    losses = []
    for _ in range(60):
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    optimizer.load_state_dict(optimizer.state_dict())


def test_lower_layers_have_lower_learning_rates():
    model = TimeSformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_frames=2, num_classes=3)
    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = {name: scales[id(parameter)] for name, parameter in model.named_parameters()}
    assert named["pos_embed"] == named["patch_embed.proj.weight"] == 0.125
    assert named["blocks.0.mlp.fc1.weight"] == 0.25
    assert named["blocks.1.norm1.bias"] == 0.5
    assert named["head.weight"] == named["norm.bias"] == 1.0
    optimizer = build_optimizer(groups, "adamw", lr=1.0)
    assert set_lr(optimizer, 0.4) == 0.4
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.05, 0.1, 0.2, 0.4]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    with pytest.raises(ValueError, match="WithEmbeddings does not have"):
        parameter_groups(WithEmbeddings(), 0.1, layer_decay=0.5)


def test_cosine_falls_from_base_to_end():
    lr = partial(lr_at, base_lr=1.0, policy="cosine", max_epoch=10, end_lr=0.2)
    assert lr(0) == pytest.approx(1.0)
    assert lr(2.5) == pytest.approx(0.2 + 0.8 * (1 + 2**-0.5) / 2)
    assert lr(5) == pytest.approx(0.6)
    assert lr(10) == pytest.approx(0.2)


def test_linear_is_a_line():
    lr = partial(lr_at, base_lr=1.0, policy="linear", max_epoch=10, end_lr=0.2)
    assert [lr(epoch) for epoch in (0, 2.5, 10)] == pytest.approx([1.0, 0.8, 0.2])


def test_one_cycle_is_torchs():
    steps, epochs, rise = 500, 20, 6
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, epochs=epochs, steps_per_epoch=steps, pct_start=rise / epochs, cycle_momentum=False
    )
    start, end = 0.5 / 25, 0.5 / 25 / 1e4  # its defaults
    ours = partial(lr_at, base_lr=0.5, policy="one_cycle", max_epoch=epochs, end_lr=end)
    for step in range(steps * epochs):
        found = ours(step / steps, warmup_epochs=rise, warmup_start_lr=start)
        assert found == pytest.approx(theirs.get_last_lr()[0], abs=0.5 * 2e-3 / rise)  # it is there one step sooner
        optimizer.step()
        theirs.step() if step + 1 < steps * epochs else None
    assert ours(epochs, warmup_epochs=rise) == pytest.approx(end)


def test_steps_change_at_their_epochs():
    steps = {"steps": [0, 11, 14], "relative_lrs": [1, 0.1, 0.01]}
    lr = partial(lr_at, base_lr=0.005, policy="steps_with_relative_lrs", max_epoch=15, **steps)
    moments = (0, 10.99, 11, 13.99, 14, 14.99)
    assert [lr(epoch) for epoch in moments] == pytest.approx([0.005, 0.005, 0.0005, 0.0005, 0.00005, 0.00005])


def test_warm_up_is_a_line_to_the_policys_value_at_its_end():
    lr = partial(lr_at, base_lr=1.0, policy="cosine", max_epoch=10, warmup_epochs=2.5, warmup_start_lr=0.1)
    end = (1 + 2**-0.5) / 2  # the cosine at epoch 2.5, not base_lr
    assert lr(0) == pytest.approx(0.1)
    assert lr(1.25) == pytest.approx((0.1 + end) / 2)
    assert lr(2.5) == pytest.approx(end)
    assert lr(2.4999) == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize("policy", KEYS["SOLVER.LR_POLICY"].choices)
@pytest.mark.parametrize("max_epoch", [1, 2, 3, 5, 15, 200])
@pytest.mark.parametrize("warmup", [0.01, 0.5, 1, 2, 2.5, 5, 14.9, 15, 30, 199, 1e6])
def test_every_schedule_trains_however_long_its_warm_up(policy, max_epoch, warmup):
    stages = {"steps": [0, 2, 11], "relative_lrs": [1, 0.1, 0.01]}
    lr = partial(lr_at, base_lr=0.4, policy=policy, max_epoch=max_epoch, warmup_epochs=warmup, **stages)
    peak = warmup_end(warmup, policy=policy, max_epoch=max_epoch, steps=stages["steps"])
    found = [lr(epoch) for epoch in (peak, *(max_epoch * i / 200 for i in range(201)))]
    assert all(math.isfinite(value) and 0 <= value <= 0.4 for value in found)
    # when the longest warm-up ends, cosine and linear have fallen by half, the other two not at all
    assert max(found) == found[0] >= (0.2 if policy in ("cosine", "linear") else 0.4)
    assert 0 < peak <= max_epoch / 2
    for beyond in (-0.001, max_epoch + 0.001):
        with pytest.raises(ValueError, match=f"epoch must be from 0 to max_epoch {max_epoch}, got "):
            lr(beyond)


def test_a_warm_up_beyond_half_of_the_training_becomes_a_tenth_of_it():
    ends = partial(warmup_end, policy="cosine")
    assert [ends(0, max_epoch=1), ends(0.5, max_epoch=1), ends(5, max_epoch=10)] == [0, 0.5, 5]
    assert [ends(0.6, max_epoch=1), ends(30, max_epoch=1), ends(5.1, max_epoch=10)] == pytest.approx([0.1, 0.1, 1])
    tenth = (1 + math.cos(math.pi / 10)) / 2
    lr = partial(lr_at, base_lr=1.0, policy="cosine", max_epoch=1, warmup_epochs=30)
    assert [lr(0), lr(0.05), lr(0.1), lr(1)] == pytest.approx([0, tenth / 2, tenth, 0])


def test_a_warm_up_beyond_the_first_step_becomes_a_fifth_of_the_epochs_before_it():
    ends = partial(warmup_end, policy="steps_with_relative_lrs", max_epoch=30, steps=[0, 11, 14])
    assert [ends(10.9), ends(11), ends(12)] == pytest.approx([10.9, 2.2, 2.2])
    assert warmup_end(12, policy="cosine", max_epoch=30, steps=[0, 11, 14]) == 12  # which has no steps


def test_unknown_policy_is_named():
    with pytest.raises(ValueError, match="exponential"):
        lr_at(0, base_lr=1.0, policy="exponential", max_epoch=1)
