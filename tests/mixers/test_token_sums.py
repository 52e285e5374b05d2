"""Mixers of sums over tokens in processes that each hold a slice of the tokens: one model, with its gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F

from videofib.attention import ContextGroup
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.models.timesformer import TimeSformer

SMALL = dict(
    img_size=(32, 48),
    num_frames=3,
    num_classes=5,
    embed_dim=24,
    depth=2,
    num_heads=2,
    attention_type="joint_space_time",
    pooling="mean",
    drop_path_rate=0.0,
)
MODELS = {
    "XCiT": dict(joint_attention="xcit"),
    "XCiT, prefix mixed": dict(joint_attention="xcit", mixer_options={"xcit": {"mix_prefix": True}}, num_registers=3),
    "ToST, recomputed": dict(joint_attention="tost", gradient_checkpointing=True),
    "ToST, prefix mixed, scaled": dict(
        joint_attention="tost", mixer_options={"tost": {"mix_prefix": True, "reference_tokens": 5}}
    ),
    "ToST, scaled": dict(joint_attention="tost", mixer_options={"tost": {"reference_tokens": 5}}, token_order="thw"),
    "prefix longer than a slice": dict(joint_attention="tost", num_registers=25),
}


def logits_and_gradients(model, clips, *, shared):
    """Of the mean loss; with shared clips gradients are averaged over processes, as DDP does it."""
    replica = processes.replicate(model) if shared else model
    logits = replica(clips)
    F.cross_entropy(logits, torch.tensor([0, 4])).backward()
    return {"logits": logits.detach()} | {name: p.grad for name, p in model.named_parameters()}


def compare_models():
    context = ContextGroup()
    for name, changes in MODELS.items():
        torch.manual_seed(0)
        model = TimeSformer(**SMALL | changes).double().train()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        clips = torch.randn(2, 3, 3, 32, 48, dtype=torch.float64)
        shared = copy.deepcopy(model)
        shared.share_tokens(context)
        assert list(shared.state_dict()) == list(model.state_dict())
        expected = logits_and_gradients(model, clips, shared=False)
        found = logits_and_gradients(shared, clips, shared=True)
        for key, value in expected.items():
            try:
                torch.testing.assert_close(found[key], value, atol=1e-10, rtol=1e-10)
            except AssertionError as error:
                raise AssertionError(f"{name}, {key}: {error}") from None


@pytest.mark.parametrize("processes", [2, 3])  # three are more than the heads
def test_processes_that_share_tokens_are_one_model(processes):
    launch(compare_models, processes=processes)
