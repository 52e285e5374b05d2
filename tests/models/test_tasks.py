"""A model of several tasks computes what one of them needs, and nothing else."""

import pytest
import torch

from tests.models.test_moe import CLIP, SMALL, TASKS, count_computed
from videofib.models import TimeSformer


def model_of(**experts):
    torch.manual_seed(0)
    return TimeSformer(**SMALL, experts=experts or None, tasks=TASKS)


def calls_of(model):
    """The names of the classifiers and routers that compute something from now on."""
    calls = []
    for name, module in model.named_modules():
        if name.startswith("head.") or (".gate" in name and not list(module.children())):
            module.register_forward_hook(lambda module, inputs, output, name=name: calls.append(name))
    return calls


def test_each_task_has_its_classes():
    model, clips = model_of(num=4, routing="multi_gate"), torch.randn(2, *CLIP)
    for task, num_classes in TASKS.items():
        assert model(clips, task=task).shape == (2, num_classes)
        model.task = task
        assert torch.equal(model(clips), model(clips, task=task))
        assert model.forward_features(clips).shape == (2, 24)
        assert model.forward_intermediates(clips, [-1], intermediates_only=True)[0].shape == (2, 24, 2, 4, 4)
        model.task = None


@pytest.mark.parametrize("routing", ["multi_gate", "task_embedding"])
def test_tasks_route_differently_and_share_the_rest(routing):
    model = model_of(num=4, routing=routing, task_dim=8).eval()
    for name, parameter in model.named_parameters():
        if "gate" in name and "norm" not in name:
            torch.nn.init.normal_(parameter, std=1.0)
    clips, found = torch.randn(2, *CLIP), []
    for task in TASKS:
        model.task = task
        found.append(model.forward_features(clips))
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])


def test_what_other_tasks_need_is_not_computed():
    """Edge-MoE's serving: of three tasks' classifiers, routers and experts those of one run."""
    model = model_of(num=8, top_k=2, routing="multi_gate", per_task=2).eval()
    calls, mlp = calls_of(model), model.blocks[1].mlp
    computed = count_computed(mlp)
    tokens = 2 * (2 * 16 + 1)
    with torch.no_grad():
        model(torch.randn(2, *CLIP), task="noun")
    assert calls == ["blocks.1.mlp.gate.1", "blocks.3.mlp.gate.1", "head.noun"]
    assert computed == [tokens, tokens]  # of 8 experts the task's own 2
    used = []
    for task in TASKS:
        model.zero_grad()
        model(torch.randn(2, *CLIP), task=task).sum().backward()
        grad = mlp.experts.htoh4.weight.grad.flatten(1).abs().sum(1)
        used.append(grad.nonzero().flatten().tolist())
    assert used == [[0, 1], [3, 4], [6, 7]]


def test_in_training_every_parameter_has_a_gradient_whatever_the_task():
    """Processes average gradients of all parameters; those that a task does not use are zero, not missing."""
    for routing in ("shared", "multi_gate", "task_embedding"):
        model = model_of(num=4, routing=routing).train()
        logits, losses = model(torch.randn(2, *CLIP), task="verb", with_losses=True)
        (logits.sum() + losses["balance"]).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        for name, parameter in model.named_parameters():
            if "head.noun" in name or "gate.2" in name:
                assert parameter.grad.eq(0).all()


def test_a_task_has_to_be_named_and_known():
    model, clips = model_of(), torch.randn(1, *CLIP)
    with pytest.raises(ValueError, match="has the tasks verb, noun, camera; set task to one"):
        model(clips)
    with pytest.raises(ValueError, match="has the tasks verb, noun, camera; set task to one"):
        model.forward_features(clips)
    with pytest.raises(ValueError, match="unknown task 'nuon'; did you mean 'noun'"):
        model(clips, task="nuon")
    with pytest.raises(ValueError, match="unknown task 'verb'"):
        TimeSformer(**SMALL)(clips, task="verb")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [({"a.b": 3}, "got 'a.b'"), ({"items": 3}, "got 'items'"), ({"a": 0}, "at least one class, got 0")],
)
def test_names_and_classes_that_cannot_be_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        TimeSformer(**SMALL, tasks=tasks)
