"""Distillation of features: the distance by a slow loop, whose gradients go where, and widths and grids that differ."""

import math

import pytest
import torch
from torch import nn

from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.distill import Distillation
from videofib.engine.feature_match import PROJECTION, ChannelMap, FeatureMatch, patch_distance, projections
from videofib.engine.objective import Supervised
from videofib.models import TimeSformer
from videofib.models.taps import PatchTaps

KINDS = {
    "joint": dict(attention_type="joint_space_time", token_order="hwt"),
    "thw": dict(attention_type="joint_space_time", joint_attention="fibottention", token_order="thw"),
    "divided": dict(attention_type="divided_space_time"),
    "space_only": dict(attention_type="space_only", num_registers=2),
}


def tiny(kind="joint", seed=0, **options):
    torch.manual_seed(seed)
    sizes = dict(img_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=3, num_heads=2, num_classes=3)
    return TimeSformer(**{**sizes, "drop_path_rate": 0.0, **KINDS[kind], **options})


def matched(student, teacher, blocks=((-1, -1),), weight=2.0):
    """A student whose features are compared, and the objective."""
    own, taught = zip(*blocks, strict=True)
    taps = PatchTaps(student, own), PatchTaps(teacher, taught)
    maps = projections(student, teacher, taps, torch.zeros(1, 3, 4, 32, 32))
    student.add_module(PROJECTION, maps)
    match = FeatureMatch(*taps, weight, maps)
    return Supervised(nn.CrossEntropyLoss(), Distillation(teacher, 0.5, 2.0, match))


def slow_distance(student, teacher):
    """For grids of which one divides the other, one patch after the other."""
    grid = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]

    def mean(maps, at):
        sizes = [size // coarse for size, coarse in zip(maps.shape[2:], grid, strict=True)]
        box = [slice(i * size, (i + 1) * size) for i, size in zip(at, sizes, strict=True)]
        return maps[(slice(None), slice(None), *box)].flatten(2).mean(2)

    total = 0
    for t in range(grid[0]):
        for h in range(grid[1]):
            for w in range(grid[2]):
                a, b = mean(student, (t, h, w)), mean(teacher, (t, h, w))
                total += 2 - 2 * ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))
    return total.mean() / math.prod(grid)


@pytest.mark.parametrize(
    ("own", "taught"), [((2, 3, 5), (2, 3, 5)), ((4, 6, 2), (2, 3, 2)), ((1, 3, 4), (3, 6, 4)), ((2, 2, 6), (4, 1, 3))]
)
def test_the_distance_is_that_of_the_slow_loop(own, taught):
    torch.manual_seed(2)
    student, teacher = torch.randn(3, 5, *own), torch.randn(3, 5, *taught)
    ours, theirs = student.clone().requires_grad_(), student.double().requires_grad_()
    loss, expected = patch_distance(ours, teacher), slow_distance(theirs, teacher.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,), (reference,) = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-7)


def test_the_distance_is_0_for_the_same_direction_and_4_for_the_opposite():
    maps = torch.randn(2, 7, 2, 3, 3)
    assert patch_distance(maps, 3 * maps).item() == pytest.approx(0, abs=1e-6)
    assert patch_distance(maps, -maps).item() == pytest.approx(4, abs=1e-5)
    assert patch_distance(maps, torch.randn(2, 7, 3, 2, 5)).isfinite()  # neither grid divides the other


def test_a_linear_map_is_one_of_each_patch():
    project, maps = ChannelMap(5, 3), torch.randn(2, 5, 2, 3, 4)
    torch.testing.assert_close(project(maps)[1, :, 1, 2, 3], project.linear(maps[1, :, 1, 2, 3]))


@pytest.mark.parametrize("kind", KINDS)
def test_taps_see_what_forward_intermediates_returns(kind):
    model = tiny(kind).train()
    clips = torch.randn(2, 3, 4, 32, 32)
    with PatchTaps(model, [0, -1]).watching(clips) as seen:
        model(clips)
    expected = model.forward_intermediates(clips, [0, 2], intermediates_only=True)
    for index, maps in zip((0, 2), expected, strict=True):
        torch.testing.assert_close(seen[index], maps, rtol=0, atol=0)
    assert not any(block._forward_hooks for block in model.blocks)


@pytest.mark.parametrize("student_kind", KINDS)
def test_gradients_reach_the_student_and_its_linear_map_alone(student_kind):
    student = tiny(student_kind, gradient_checkpointing=True)
    teacher = tiny("thw", seed=1, embed_dim=32, depth=2, patch_size=16).eval().requires_grad_(False)
    objective = matched(student, teacher, [(0, 0), (-1, 1)])
    before = [value.clone() for value in teacher.state_dict().values()]
    clips, labels = torch.randn(2, 3, 4, 32, 32), torch.tensor([0, 2])
    passes = []
    hooks = [model.register_forward_hook(lambda *_: passes.append(1)) for model in (student, teacher)]
    loss, logits, parts = objective(student.train(), clips, labels, {})
    assert len(passes) == len(hooks) == 2  # each computes the clips once
    assert objective.parts == ("teacher_loss", "feature_loss") == tuple(parts)
    rest = 0.5 * nn.functional.cross_entropy(logits, labels) + 0.5 * parts["teacher_loss"]
    assert loss.item() == pytest.approx((rest + 2.0 * parts["feature_loss"]).item(), rel=1e-6)
    (loss - rest).backward()
    maps = getattr(student, PROJECTION)
    assert [type(each) for each in maps] == [ChannelMap, ChannelMap]
    assert all(parameter.grad.abs().sum() > 0 for parameter in maps.parameters())
    assert student.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(torch.equal(one, other) for one, other in zip(before, teacher.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_equal_widths_need_no_linear_map():
    student = tiny()
    matched(student, tiny(seed=1, depth=2).eval())
    assert not list(getattr(student, PROJECTION).parameters())


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="a TimeSformer alone can be looked at, and the teacher is a Linear"):
        PatchTaps(nn.Linear(2, 2), [-1], "the teacher")
    with pytest.raises(ValueError, match="no block 3 in a model of 3; name -3 to 2"):
        PatchTaps(tiny(), [3])
    model, clips = tiny(), torch.zeros(1, 3, 4, 32, 32)
    model.blocks[1].register_forward_hook(lambda module, args, output: (output[0][:, :20], output[1]))
    with (
        pytest.raises(ValueError, match=r"block 1 of the student returns tokens \(1, 20, 24\) of clips whose grid"),
        PatchTaps(model, [1], "the student").watching(clips),
    ):
        model(clips)


def of_two_processes(folder):
    """Gradients of a batch of four, two clips in each process."""
    student, teacher = tiny(), tiny(seed=1, embed_dim=32).eval().requires_grad_(False)
    objective = matched(student, teacher)
    replica = processes.replicate(student)
    torch.manual_seed(3)
    clips, labels = torch.randn(4, 3, 4, 32, 32), torch.tensor([0, 2, 1, 1])
    own = slice(processes.rank(), None, processes.world_size())
    objective(replica, clips[own], labels[own], {}).loss.backward()
    if processes.is_main():
        torch.save({name: p.grad for name, p in student.named_parameters()}, folder / f"{processes.world_size()}.pt")


def test_processes_average_the_gradients_of_the_linear_map(tmp_path):
    launch(of_two_processes, (tmp_path,), processes=2)
    of_two_processes(tmp_path)
    together, alone = torch.load(tmp_path / "2.pt"), torch.load(tmp_path / "1.pt")
    assert f"{PROJECTION}.0.linear.weight" in alone
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-7)
