"""What blocks hand on to each other: their losses, and memory that a block finds again when it is recomputed."""

import pytest
import torch
from torch import nn

from videofib.engine.objective import Supervised
from videofib.models.blocks import DenseMlp, add_losses
from videofib.models.timesformer import TimeSformer

TINY = dict(img_size=16, patch_size=8, num_frames=2, embed_dim=8, depth=3, num_heads=2, num_classes=3)


class Counting(DenseMlp):
    """An MLP that counts the blocks before it, and adds its count and the mean square of its output to the losses."""

    def forward(self, x, memory):
        y, memory = super().forward(x, memory)
        count = memory.get("count", x.new_zeros(())) + 1
        return y * count, add_losses({**memory, "count": count}, {"size": y.square().mean(), "count": count})


@pytest.fixture
def model(monkeypatch):
    def build(**options):
        monkeypatch.setattr("videofib.models.blocks.DenseMlp", Counting)
        torch.manual_seed(0)
        return TimeSformer(**TINY, drop_path_rate=0.0, **options)

    return build


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_losses_of_all_blocks_are_summed_by_name(model, attention_type):
    logits, losses = model(attention_type=attention_type)(torch.randn(2, 3, 2, 16, 16), with_losses=True)
    assert logits.shape == (2, 3)
    assert losses["count"] == 1 + 2 + 3
    assert losses["size"] > 0


@pytest.mark.parametrize("recompute", ["block", "cheap"])
def test_a_recomputed_block_finds_the_memory_that_it_was_handed(model, recompute):
    clips, labels = torch.randn(2, 3, 2, 16, 16), torch.tensor([0, 2])
    objective = Supervised(nn.CrossEntropyLoss(), added={"size": 0.5})
    gradients = []
    for options in ({}, {"gradient_checkpointing": True, "recompute": recompute}):
        trained = model(attention_type="joint_space_time", **options).train()
        loss, _, parts = objective(trained, clips, labels, {})
        loss.backward()
        assert parts.keys() == {"size"}
        gradients.append(torch.cat([p.grad.flatten() for p in trained.parameters()]))
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_a_models_losses_are_added_with_their_weights(model):
    clips, labels = torch.randn(2, 3, 2, 16, 16), torch.tensor([0, 2])
    trained = model(attention_type="joint_space_time")
    plain, _, none = Supervised(nn.CrossEntropyLoss())(trained, clips, labels, {})
    more, _, parts = Supervised(nn.CrossEntropyLoss(), added={"count": 2.0})(trained, clips, labels, {})
    assert none == {}
    torch.testing.assert_close(more, plain + 2 * 6)
    assert parts["count"] == 6


def test_a_model_without_losses_gives_none():
    _, losses = TimeSformer(**TINY)(torch.randn(1, 3, 2, 16, 16), with_losses=True)
    assert losses == {}
