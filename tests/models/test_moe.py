"""Experts: equal to a loop over tokens however they are computed, and part of a model like its other layers."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videofib.engine.optim import parameter_groups
from videofib.models import TimeSformer
from videofib.models.blocks import LOSSES, BlockSpec, DenseMlp
from videofib.models.expert_options import ExpertOptions
from videofib.models.moe import MoeMlp
from videofib.models.profiling import cost, forward_multiply_adds
from videofib.models.routing import balance_loss, expected_load, importance, load, route
from videofib.models.tasks import TASK, ActiveTask

SMALL = dict(
    img_size=32,
    patch_size=8,
    num_frames=2,
    num_classes=5,
    embed_dim=24,
    depth=4,
    num_heads=3,
    attention_type="joint_space_time",
    drop_path_rate=0.0,
)
TASKS = {"verb": 3, "noun": 7, "camera": 2}
CLIP = (3, 2, 32, 32)


def experts_of(dim=6, num_tasks=0, **options):
    torch.manual_seed(0)
    mlp = MoeMlp(BlockSpec(dim, 4.0, 0.0, 1e-6, None), ExpertOptions(**options), num_tasks).double()
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=0.5)
    return mlp


def reference(mlp, tokens, task):
    """Token by token and expert by expert, as the paper's equations."""
    router = mlp.gate[task.number] if isinstance(mlp.gate, nn.ModuleList) else mlp.gate
    among = mlp.ranges[task.number]
    rows = []
    for token in tokens:
        joined = token if mlp.routing != "task_embedding" else torch.cat([token, task.vector])
        probabilities = (joined @ router.w_gate)[among.start : among.stop].softmax(0)
        total = torch.zeros_like(token)
        for expert in probabilities.argsort(descending=True)[: mlp.top_k]:
            layers, e = mlp.experts, among.start + expert
            hidden = F.gelu(layers.htoh4.weight[e] @ token + layers.htoh4.bias[e])
            total = total + probabilities[expert] * (layers.h4toh.weight[e] @ hidden + layers.h4toh.bias[e])
        rows.append(total)
    return torch.stack(rows)


CASES = {
    "V-MoE's": (dict(num=5, top_k=2), 0),
    "one expert": (dict(num=1, top_k=1), 0),
    "all experts": (dict(num=3, top_k=3, ratio=0.5), 0),
    "more experts than tokens": (dict(num=29, top_k=1), 0),
    "a router for each task": (dict(num=4, top_k=2, routing="multi_gate"), 3),
    "vectors of tasks": (dict(num=4, top_k=2, routing="task_embedding", task_dim=5), 3),
    "experts of tasks": (dict(num=7, top_k=2, per_task=3), 3),
    "experts of tasks, a router for each": (dict(num=7, top_k=3, per_task=3, routing="multi_gate"), 2),
}


@pytest.mark.parametrize("way", ["sorted", "dense"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_a_loop_over_tokens(case, way, monkeypatch):
    options, num_tasks = CASES[case]
    mlp = experts_of(num_tasks=num_tasks, **options)
    if way == "dense":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for number in range(max(1, num_tasks)):
        vector = torch.randn(5, dtype=torch.float64, requires_grad=True) if mlp.routing == "task_embedding" else None
        task = ActiveTask(number, vector)
        x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(2, 7, 6, dtype=torch.float64)
        inputs = [x, *mlp.parameters(), *([vector] if vector is not None else [])]
        expected = reference(mlp, x.flatten(0, 1), task).view_as(x)
        found, _ = mlp(x, {TASK: task})
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        for a, b in zip(
            torch.autograd.grad((found * weight).sum(), inputs, allow_unused=True, materialize_grads=True),
            torch.autograd.grad((expected * weight).sum(), inputs, allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_no_clips_give_no_tokens_and_gradients_of_zero():
    mlp = experts_of(num=3, top_k=2)
    y, _ = mlp.eval()(torch.zeros(0, 7, 6, dtype=torch.float64), {})
    assert y.shape == (0, 7, 6)
    y.sum().backward()
    assert mlp.experts.htoh4.weight.grad.eq(0).all()


def test_an_expert_without_tokens_is_not_computed_and_has_a_gradient_of_zero():
    mlp = experts_of(num=4, top_k=1)
    with torch.no_grad():
        mlp.gate.w_gate.zero_()
        mlp.gate.w_gate[:, 2] = 1.0  # positive tokens choose this one
    computed = count_computed(mlp)
    y, _ = mlp(torch.rand(1, 5, 6, dtype=torch.float64), {})
    y.sum().backward()
    assert computed == [5]
    used = mlp.experts.htoh4.weight.grad.flatten(1).abs().sum(1) > 0
    assert used.tolist() == [False, False, True, False]


def count_computed(mlp):
    """The tokens of each expert that is computed from now on."""
    computed, one = [], mlp.experts.one
    mlp.experts.one = lambda tokens, *layers: computed.append(len(tokens)) or one(tokens, *layers)
    return computed


def test_weights_are_not_renormalised():
    routes = route(torch.tensor([[1.0, 2.0, 3.0, 0.0]]), 2)
    assert routes.experts.tolist() == [[2, 1]]
    total = sum(map(math.exp, (0, 1, 2, 3)))
    assert routes.weights[0].tolist() == pytest.approx([math.e**3 / total, math.e**2 / total])


def test_the_balance_loss_by_hand():
    """Three tokens of weight 0.6 go to expert 0, one of 0.5 to expert 1, none to expert 2."""
    logits = torch.tensor([[0.6, 0.3, 0.1]] * 3 + [[0.3, 0.5, 0.2]]).log()
    routes = route(logits, 1)
    assert importance(routes, 3).tolist() == pytest.approx([1.8, 0.5, 0.0])
    assert load(routes, 3).tolist() == [3, 1, 0]
    by_hand = []
    for values in ([1.8, 0.5, 0.0], [3, 1, 0]):
        mean = sum(values) / 3
        by_hand.append(sum((v - mean) ** 2 for v in values) / 2 / mean**2)
    assert float(balance_loss(importance(routes, 3), load(routes, 3))) == pytest.approx(sum(by_hand), rel=1e-6)
    assert float(balance_loss(torch.ones(1), torch.ones(1))) == 0  # a single expert has no variance


def test_the_expected_load_is_what_many_draws_of_the_noise_give():
    torch.manual_seed(0)
    clean, std, top_k = torch.randn(1, 5, dtype=torch.float64), 0.7, 2
    noisy = clean + std * torch.randn(1, 5, dtype=torch.float64)
    thresholds = noisy.topk(top_k + 1).values[:, -2:]
    found = expected_load(clean, noisy, thresholds, std)
    # the noise of one expert is drawn again, that of the others stays
    for expert in range(5):
        others = noisy[0, [e for e in range(5) if e != expert]].topk(top_k).values[-1]
        draws = clean[0, expert] + std * torch.randn(200_000, dtype=torch.float64)
        assert float((draws > others).double().mean()) == pytest.approx(float(found[expert]), abs=0.005)


def test_losses_are_handed_on_in_training_alone_and_summed_over_blocks():
    model = TimeSformer(**SMALL, experts={"num": 4, "noise": 1.0}).train()
    _, losses = model(torch.randn(2, *CLIP), with_losses=True)
    assert set(losses) == {"balance", "z"}
    assert all(value.ndim == 0 and value > 0 for value in losses.values())
    losses["balance"].backward()
    for index, block in enumerate(model.blocks):
        if index % 2:
            assert block.mlp.gate.w_gate.grad.abs().sum() > 0
    assert model.eval()(torch.randn(2, *CLIP), with_losses=True)[1] == {}


def test_every_nth_block_has_experts_as_wide_together_as_the_mlp():
    model = TimeSformer(**SMALL, experts={"num": 8, "top_k": 2, "every": 3})
    assert [type(block.mlp) for block in model.blocks] == [DenseMlp, DenseMlp, MoeMlp, DenseMlp]
    assert model.blocks[2].mlp.experts.htoh4.weight.shape == (8, 48, 24)  # 2 x 48 = 4 x 24
    assert [name for name in model.state_dict() if name.startswith("blocks.2.mlp.")] == [
        "blocks.2.mlp.gate.w_gate",
        *(f"blocks.2.mlp.experts.{layer}.{part}" for layer in ("htoh4", "h4toh") for part in ("weight", "bias")),
    ]


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_multiply_adds_are_the_formula_of_active_experts(attention_type):
    """Beside the dense model: E·C of the router and K·2·C·F of the experts for each token, in place of 2·4·C²."""
    changes = SMALL | dict(attention_type=attention_type)
    dense = TimeSformer(**changes)
    model = TimeSformer(**changes, experts={"num": 6, "top_k": 2, "ratio": 1.5})
    tokens = 2 * (16 + 1) if attention_type == "space_only" else 2 * 16 + 1
    more = 2 * tokens * (6 * 24 + 2 * 2 * 24 * 36 - 2 * 4 * 24 * 24)
    assert forward_multiply_adds(model, CLIP) - forward_multiply_adds(dense, CLIP) == more
    assert cost(model, CLIP).multiply_adds - cost(dense, CLIP).multiply_adds == more
    per_block = 6 * (2 * 24 * 36 + 24 + 36) + 24 * 6 - (2 * 4 * 24 * 24 + 5 * 24)
    assert cost(model, CLIP).parameters - cost(dense, CLIP).parameters == 2 * per_block


def test_recomputed_blocks_have_the_same_losses_and_gradients():
    for recompute in ("block", "cheap"):
        found = []
        for checkpointing in (False, True):
            torch.manual_seed(0)
            options = dict(gradient_checkpointing=checkpointing, recompute=recompute)
            model = TimeSformer(**SMALL, **options, experts={"num": 4, "noise": 1.0, "every": 1}).train()
            torch.manual_seed(1)
            logits, losses = model(torch.randn(2, *CLIP), with_losses=True)
            (logits.square().sum() + losses["balance"] + losses["z"]).backward()
            found.append([p.grad for p in model.parameters()])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


def test_the_router_computes_in_float32_under_autocast():
    mlp = MoeMlp(BlockSpec(8, 4.0, 0.0, 1e-6, None), ExpertOptions(num=4), 0)
    x = torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y, memory = mlp(x, {})
        logits = mlp.logits(x.flatten(0, 1), ActiveTask(0))
    assert y.dtype == torch.bfloat16 == F.linear(x.bfloat16(), torch.ones(1, 8).bfloat16()).dtype
    assert logits.dtype == memory[LOSSES]["balance"].dtype == torch.float32
    assert torch.equal(logits, mlp.logits(x.flatten(0, 1), ActiveTask(0)))
    torch.testing.assert_close(y.float(), mlp(x, {})[0], atol=0.01, rtol=0.05)


def test_biases_do_not_decay_and_layers_are_numbered():
    model = TimeSformer(**SMALL, experts={"num": 4, "routing": "task_embedding"}, tasks=TASKS)
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in parameter_groups(model, 0.1) for p in group["params"]}
    stacked = {name: rate for name, rate in decay.items() if ".experts." in name}
    assert all((rate == 0) == name.endswith("bias") for name, rate in stacked.items())
    assert len(stacked) == 8
    assert decay["blocks.1.mlp.gate.w_gate"] == 0.1
    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    scale = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scale["blocks.1.mlp.experts.htoh4.bias"] == scale["blocks.1.norm1.weight"] == 0.5**3
    assert scale["head.verb.weight"] == 1
    assert scale["gate_task_represent.fc1.weight"] == 0.5**5


def test_initial_values_are_drawn_again_under_the_same_seed():
    for routing in ("multi_gate", "task_embedding"):
        torch.manual_seed(3)
        model = TimeSformer(**SMALL, experts={"num": 4, "routing": routing}, tasks=TASKS)
        with torch.device("meta"):
            other = TimeSformer(**SMALL, experts={"num": 4, "routing": routing}, tasks=TASKS)
        other.to_empty(device="cpu")
        torch.manual_seed(3)
        other.reset_parameters()
        assert all(torch.isfinite(p).all() for p in other.parameters())
        std = 0.02 * (768 / 24) ** 0.5
        assert other.blocks[1].mlp.experts.htoh4.weight.std().item() == pytest.approx(std, rel=0.1)
        assert all(model.state_dict()[name].shape == x.shape for name, x in other.state_dict().items())


def test_clips_without_values_cost_no_computing():
    with torch.device("meta"):
        model = TimeSformer(**SMALL, experts={"num": 4}).eval()
        assert model(torch.empty(1, *CLIP)).shape == (1, 5)


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_traced_model_computes_all_experts_and_the_same_logits(training):
    torch.manual_seed(0)
    model = TimeSformer(**SMALL, experts={"num": 4, "every": 1}).train(training)
    clips = torch.randn(3, *CLIP)
    if training:
        compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
        results = []
        for each in (model, compiled):
            logits, losses = each(clips, with_losses=True)
            (logits.square().sum() + losses["balance"]).backward()
            results.append([logits, *losses.values(), *(p.grad for p in each.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        return
    program = torch.export.export(model, (clips,), strict=False, dynamic_shapes=({0: torch.export.Dim("b", min=1)},))
    other = torch.randn(5, *CLIP)
    torch.testing.assert_close(program.module()(other), model(other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "tasks", "message"),
    [
        ({"nun": 4}, None, r"no option 'nun' \(got nun=4\); did you mean 'num'\?"),
        ({"num": "four"}, None, "must be int, got num='four'"),
        ({"num": 0}, None, "num of experts must be at least 1, got num=0"),
        ({"num": 4, "top_k": 5}, None, "top_k of experts must be from 1 to 4, got top_k=5"),
        ({"num": 4, "top_k": 3, "per_task": 2}, TASKS, "top_k of experts must be from 1 to 2, got top_k=3"),
        ({"every": 5}, None, "every of experts must be from 1 to 4, got every=5"),
        ({"noise": -1.0}, None, "noise=-1.0"),
        ({"ratio": 0.01}, None, "ratio=0.01 of width 24"),
        ({"routing": "multi_gate"}, None, "routing='multi_gate' need a model of several tasks, got 0"),
        ({"per_task": 2}, {"verb": 3}, "per_task=2 need a model of several tasks, got 1"),
        ({"routing": "multigate"}, TASKS, "routing"),
    ],
)
def test_options_that_cannot_be_are_refused_with_their_values(options, tasks, message):
    with pytest.raises(ValueError, match=message):
        TimeSformer(**SMALL, experts=options, tasks=tasks)
