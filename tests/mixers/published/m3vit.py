"""M3ViT's experts (``models/custom_moe_layer.py``, ``models/gate_funs/noisy_gate_vmoe.py``): eval, training, losses."""

import torch

from tests.mixers.published.case import Result
from videofib.models.blocks import BlockSpec
from videofib.models.expert_options import ExpertOptions
from videofib.models.moe import MoeMlp
from videofib.models.routing import balance_loss, expected_load, importance, load, route
from videofib.models.tasks import ActiveTask, TaskVectors

SYSTEMS = ["m3vit"]
PREFIX = "mlp."
VECTORS = "gate_task_represent."


def compute(case):
    config = case.config
    mlp, vectors = built(config, case.state)
    task = config["task_id"] or 0
    active = ActiveTask(task, vectors(task) if vectors else None)
    x = case.inputs["input"]
    y, _ = mlp.eval()(x, {"task": active})
    outputs = {"output": y}
    tokens, among = x.flatten(0, 1), mlp.ranges[task]
    clean = mlp.logits(tokens, active)[:, among.start : among.stop]
    if "__expert_indices" in case.arrays:
        found = route(clean, mlp.top_k).experts + among.start
        assert same(found, torch.from_numpy(case.arrays["__expert_indices"]).flatten(0, -2)), "chosen experts"
    if "__output_train" in case.arrays:
        noise = torch.from_numpy(case.arrays["__noise"])
        outputs["output_train"] = training(mlp, tokens, clean, noise, case).view_as(x)
    names = {PREFIX + name: parameter for name, parameter in mlp.named_parameters()}
    if vectors:
        names |= {VECTORS + name: parameter for name, parameter in vectors.named_parameters()}
    return Result(outputs, names)


def built(config, state):
    """Our experts and the vectors of tasks with the published weights, under their names."""
    dim, num, tasks = config["d_model"], config["num_expert"], config["num_tasks"]
    of_task = config["num_experts_pertask"]
    conditioned = any(name.startswith(VECTORS) for name in state)
    width = config["gate_task_specific_dim"]
    options = ExpertOptions(
        num=num,
        top_k=config["top_k"],
        ratio=config["d_hidden"] / dim,
        routing="task_embedding" if conditioned else "multi_gate" if PREFIX + "gate.0.w_gate" in state else "shared",
        task_dim=max(width, 1),
        per_task=of_task if of_task > 0 else None,
    )
    mlp = MoeMlp(BlockSpec(dim, 4.0, drop=0.0, norm_eps=1e-6, layer_scale=None), options, max(tasks, 1))
    mlp.load_state_dict({name.removeprefix(PREFIX): x for name, x in state.items() if name.startswith(PREFIX)})
    vectors = TaskVectors(tasks, width) if conditioned else None
    if vectors:
        vectors.load_state_dict({n.removeprefix(VECTORS): x for n, x in state.items() if n.startswith(VECTORS)})
    return mlp, vectors


def training(mlp, tokens, clean, noise, case):
    """The output with the noise of the file; its balance losses are compared here."""
    num, std = clean.shape[1], case.config["vmoe_noisy_std"] / mlp.num
    noisy = clean + std * noise
    routes = route(noisy, mlp.top_k)
    if "__balance_loss_noiseless" in case.arrays:
        quiet = route(clean, mlp.top_k)
        found = balance_loss(importance(quiet, num), load(quiet, num))
        assert close(found, case.arrays["__balance_loss_noiseless"].reshape(())), "balance loss without noise"
    if "__balance_loss_train" in case.arrays:
        # the published code compares logits with thresholds of the softmax, which expected_load is given here
        thresholds = noisy.softmax(-1).topk(mlp.top_k + 1, dim=-1).values[:, -2:]
        used = expected_load(clean, noisy, thresholds, std)
        found = balance_loss(importance(routes, num), used)
        assert close(found, case.arrays["__balance_loss_train"].reshape(())), "balance loss with noise"
    return mlp.experts(tokens, routes, range(num))


def same(found, expected):
    return torch.equal(found.sort(dim=-1).values, expected.sort(dim=-1).values)


def close(found, expected):
    expected = torch.as_tensor(expected)
    return bool((found.detach() - expected).abs().max() <= 5e-6 * expected.abs().max())
