"""Processes that each compute a slice of the tokens give the logits and gradients of one process."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from videofib.attention import ContextGroup
from videofib.distributed import processes
from videofib.distributed.fsdp import full_tensor, shard
from videofib.distributed.launch import launch
from videofib.models.timesformer import TimeSformer

SMALL = dict(
    img_size=(32, 48),
    num_frames=3,
    num_classes=5,
    embed_dim=24,
    depth=2,
    num_heads=4,
    attention_type="joint_space_time",
    joint_attention="fibottention",
    mixer_options={"fibottention": {"w_min": 2}},
    drop_path_rate=0.0,
)
MODELS = {
    "as published": {},
    "dense, frame after frame": dict(joint_attention="dense", token_order="thw"),
    "no prefix, mean, sinusoids": dict(class_token=False, pooling="mean", position="sinusoid", token_order="thw"),
    "registers, tubelets, all norms": dict(
        num_registers=4, num_frames=4, tubelet_size=2, qk_norm=True, pre_norm=True, layer_scale=0.1, pooling="mean"
    ),
    "prefix longer than a slice": dict(num_registers=5, num_frames=1, img_size=32),
    "recomputed in the backward pass": dict(gradient_checkpointing=True, drop_path_rate=0.5),
    "other size": dict(img_size=16, num_frames=2, mixer_options={"fibottention": {"masking": "zero_logit"}}),
    "other size, sinusoids": dict(img_size=16, num_frames=2, position="sinusoid"),
}
FRAMES = {"registers, tubelets, all norms": 4, "prefix longer than a slice": 1}


def logits_and_gradients(model, clips, labels, *, shared, seed=3):
    """Of the mean loss; with shared clips gradients are averaged over processes, as DDP does it."""
    torch.manual_seed(seed)  # of stochastic depth
    replica = processes.replicate(model) if shared else model
    logits = replica(clips)
    F.cross_entropy(logits, labels).backward()
    return {"logits": logits.detach()} | {name: p.grad for name, p in model.named_parameters()}


def compare_models(dtype, tolerance, names=tuple(MODELS), mode="auto"):
    context = ContextGroup(mode=mode)
    for name in names:
        changes = MODELS[name]
        if mode == "ring":
            changes = {"joint_attention": "dense", **changes, "mixer_options": {}}
        torch.manual_seed(0)
        model = TimeSformer(**SMALL | changes).to(dtype).train()
        for parameter in model.parameters():  # nothing silent: registers and scales, too
            torch.nn.init.normal_(parameter, std=0.2)
        size = (32, 32) if name == "prefix longer than a slice" else (32, 48)
        clips = torch.randn(3, 3, FRAMES.get(name, 3), *size, dtype=dtype)
        labels = torch.tensor([0, 4, 2])
        shared = copy.deepcopy(model)
        shared.share_tokens(context)
        assert list(shared.state_dict()) == list(model.state_dict())
        expected = logits_and_gradients(model, clips, labels, shared=False)
        found = logits_and_gradients(copy.deepcopy(shared), clips, labels, shared=True)  # as a moving average's copy
        for key, value in expected.items():
            try:
                torch.testing.assert_close(found[key], value, atol=tolerance, rtol=tolerance)
            except AssertionError as error:
                raise AssertionError(f"{name}, {key}: {error}") from None


def compiled():
    """Compilation leaves out what processes exchange, and changes nothing."""
    torch.manual_seed(0)
    model = TimeSformer(**SMALL | dict(depth=1)).train()
    model.share_tokens(ContextGroup())
    clips, labels = torch.randn(1, 3, 3, 32, 48), torch.tensor([1])
    expected = logits_and_gradients(copy.deepcopy(model), clips, labels, shared=True)
    logits = torch.compile(model, backend="aot_eager")(clips)
    torch.testing.assert_close(logits, expected["logits"])
    F.cross_entropy(logits, labels).backward()
    total = model.pos_embed.grad
    dist.all_reduce(total)
    torch.testing.assert_close(total / 2, expected["pos_embed"], atol=1e-6, rtol=1e-5)


def smallest_slices():
    """No process computes blocks, or the norm in front of them, for tokens outside its slice."""
    model = TimeSformer(**SMALL)
    model.share_tokens(ContextGroup())
    seen = []
    for layer in (model.norm_pre, model.blocks[0].attn.qkv, model.blocks[0].mlp):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[1]))
    model(torch.randn(1, 3, 3, 32, 48))
    count = [10, 9][dist.get_rank()]  # of 1 + 3·2·3
    assert seen == [count] * 3


def refusals():
    context = ContextGroup()
    for changes, message in (
        (dict(attention_type="divided_space_time"), "joint_space_time attention only, got attention_type=divided"),
        (dict(attention_type="space_only"), "got attention_type=space_only"),
        (dict(drop_rate=0.1), "must be 0, got drop_rate=0.1"),
        (dict(attn_drop_rate=0.1), "attn_drop_rate=0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            TimeSformer(**SMALL | changes).share_tokens(context)
    diffuser = dict(joint_attention="diffuser", mixer_options={})
    for mode, changes, message in (
        ("heads", dict(num_heads=1), "2 processes cannot share the 1 heads"),
        ("auto", dict(num_heads=1, **diffuser), "2 processes cannot share the 1 heads"),
        ("ring", {}, "mode 'ring' of context parallelism is for dense attention"),
        ("halo", dict(joint_attention="dense"), "mode 'halo' of context parallelism is for sparse attention"),
        ("auto", dict(num_heads=1, attention_backend="triton"), "backend 'triton' computes no halo, which 2 processes"),
        ("halo", diffuser, "mode 'halo' of context parallelism computes plain attention only, not Diffuser"),
    ):
        with pytest.raises(ValueError, match=message):
            TimeSformer(**SMALL | changes).share_tokens(ContextGroup(mode=mode))


def sharded(mode):
    """Weights may be sharded over the processes that share tokens, whose gradients are those of one process."""
    torch.manual_seed(0)
    model = TimeSformer(**SMALL | dict(joint_attention="dense", mixer_options={}) if mode == "ring" else SMALL).double()
    clips, labels = torch.randn(2, 3, 3, 32, 48, dtype=torch.float64), torch.tensor([1, 4])
    expected = logits_and_gradients(copy.deepcopy(model), clips, labels, shared=False)
    model.share_tokens(ContextGroup(mode=mode))
    shard(model)
    found = logits_and_gradients(model, clips, labels, shared=True)
    for name, value in expected.items():
        gathered = found[name] if name == "logits" else full_tensor(found[name])
        torch.testing.assert_close(gathered, value, atol=1e-12, rtol=1e-12)


def in_two_processes():
    compare_models(torch.float64, 1e-10)
    for mode in ("heads", "ring", "halo"):
        compare_models(torch.float64, 1e-12, ["registers, tubelets, all norms", "other size"], mode)
    compare_models(torch.float32, 1e-5, ["as published"])
    compiled()
    sharded("ring")
    sharded("halo")
    smallest_slices()
    refusals()


def in_three_processes():
    compare_models(torch.float64, 1e-10)
    compare_models(torch.float64, 1e-12, ["recomputed in the backward pass"], "ring")


def in_eight_processes():
    """More than there are heads; some without patches, some without prefix tokens."""
    for mode in ("ring", "halo"):
        compare_models(torch.float64, 1e-12, ["as published", "no prefix, mean, sinusoids", "other size"], mode)


@pytest.mark.parametrize(
    ("processes", "check"),
    [(2, in_two_processes), (3, in_three_processes), pytest.param(8, in_eight_processes, marks=pytest.mark.slow)],
)
def test_processes_that_share_tokens_are_one_model(processes, check):
    launch(check, processes=processes)
