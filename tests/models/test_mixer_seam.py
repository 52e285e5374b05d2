"""Any mixer goes into the model by its row of the table: grid and state reach it, and what it cannot serve is refused.

The mixer here has no attention heads, and a state: each block adds what the one before returned.
"""

import copy

import pytest
import torch
from torch import nn

from videofib.mixers import MIXERS, Mixer
from videofib.models import TimeSformer

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=3, embed_dim=8, depth=3, num_heads=2, drop_path_rate=0.0
)
CLIP = (2, 3, 3, 16, 24)
TYPES = ["divided_space_time", "joint_space_time", "space_only"]
ECHO = dict(space_attention="echo", time_attention="echo", joint_attention="echo")


class Echo(nn.Module):
    """Every token receives a linear map of the mean of all, plus ``decay`` times what the block before returned."""

    def __init__(self, layer, *, decay=0.5, temperature=None):
        super().__init__()
        self.layer, self.decay = layer, decay
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.gain = nn.Parameter(torch.empty(1, 1, layer.dim))
        self.calls = []

    def reset_parameters(self):
        nn.init.constant_(self.gain, 2.0)

    def no_weight_decay(self):
        return {"gain"}

    def forward(self, x, grid, state):
        if not torch.compiler.is_compiling():
            self.calls.append((grid, tuple(x.shape), None if state is None else tuple(state["echo"][0].shape)))
        y = self.gain * self.proj(x.mean(1, keepdim=True).expand_as(x))
        if state is not None:
            y = y + self.decay * state["echo"][0]
        return y, {"echo": (y,), "count": torch.ones(()) if state is None else state["count"] + 1}


def row(**words):
    return Mixer(Echo, "arXiv 0000.00000", lambda mixer, grid: 0, **words)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setitem(MIXERS, "echo", row(needs=frozenset({"state"}), serves=frozenset({"class_token"})))
    return monkeypatch


def gradients(model, video):
    model.zero_grad()
    model(video).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_a_joint_mixer_reads_what_earlier_blocks_left(randomize):
    model = randomize(TimeSformer(**TINY, **ECHO, attention_type="joint_space_time"))
    video = torch.randn(CLIP)
    x, branch = model.embed(video), 0
    for block in model.blocks:  # by hand
        mean = block.norm1(x).mean(1, keepdim=True)
        branch = block.attn.gain * block.attn.proj(mean) + 0.5 * branch
        x = x + branch
        x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(model.forward_features(video), model.norm(x[:, 0]))
    shapes = [call for block in model.blocks for call in block.attn.calls]
    assert shapes == [((3, 2, 3), (2, 19, 8), state) for state in (None, (2, 19, 8), (2, 19, 8))]


def test_the_mixers_of_a_divided_block_have_a_state_each():
    model = TimeSformer(**TINY, **ECHO, num_registers=2)
    model(torch.randn(CLIP))
    for index, block in enumerate(model.blocks):
        lines, frames = (2 * 6, 3, 8), (2 * 3, 3 + 6, 8)
        assert block.temporal_attn.calls == [((3, 1, 1), lines, lines if index else None)]
        assert block.attn.calls == [((1, 2, 3), frames, frames if index else None)]


def test_single_frames_have_a_grid_of_one_frame():
    model = TimeSformer(**TINY, **ECHO, attention_type="space_only")
    model(torch.randn(CLIP))
    assert [call[:2] for call in model.blocks[0].attn.calls] == [((1, 2, 3), (6, 7, 8))]


def test_a_mixer_is_built_for_its_layer():
    def layers(token_order, **changes):
        model = TimeSformer(**TINY, **ECHO, token_order=token_order, **changes)
        return [{name: mixer.layer for name, mixer in block.mixers().items()} for block in model.blocks]

    joint = layers("thw", attention_type="joint_space_time")
    assert [layer["attn"].index for layer in joint] == [0, 1, 2]
    first = joint[0]["attn"]
    assert (first.grid, first.order, first.num_prefix_tokens, first.depth) == ((3, 2, 3), "t h w", 1, 3)
    divided = layers("hwt", num_registers=2)[1]
    assert (divided["attn"].grid, divided["attn"].num_prefix_tokens) == ((1, 2, 3), 3)
    assert (divided["temporal_attn"].grid, divided["temporal_attn"].num_prefix_tokens) == ((3, 1, 1), 0)


@pytest.mark.parametrize("attention_type", TYPES)
def test_state_goes_through_recomputation(attention_type, randomize):
    model = randomize(TimeSformer(**TINY, **ECHO, attention_type=attention_type)).train()
    video, expected = torch.randn(CLIP), None
    for recompute, every in [(None, 1), ("block", 1), ("block", 2), ("cheap", 1)]:
        m = copy.deepcopy(model)
        m.blocks.recompute, m.blocks.recompute_every = recompute, every
        found = gradients(m, video)
        expected = expected or found
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items()), (recompute, every)
        assert len(m.blocks[0].attn.calls) == (2 if recompute else 1)  # it was in fact computed again
    silent = randomize(TimeSformer(**TINY, **ECHO, attention_type=attention_type, mixer_options={"echo": {"decay": 0}}))
    alone = gradients(silent.train(), video)
    assert not torch.allclose(alone["blocks.0.attn.gain"], expected["blocks.0.attn.gain"], rtol=1e-3)  # through state


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
@pytest.mark.parametrize("recompute", [None, "block"])
def test_state_goes_through_compilation(attention_type, recompute, randomize):
    model = randomize(TimeSformer(**TINY | {"depth": 2}, **ECHO, attention_type=attention_type)).train()
    video = torch.randn(CLIP)
    expected = gradients(model, video)
    model.blocks.recompute = recompute
    model.zero_grad()
    torch.compile(model, backend="aot_eager", fullgraph=True)(video).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_a_mixer_sets_its_own_initial_weights_and_what_does_not_decay():
    model = TimeSformer(**TINY, **ECHO)
    assert all((mixer.gain == 2).all() for block in model.blocks for mixer in block.mixers().values())
    own = {f"blocks.{i}.{part}.gain" for i in range(3) for part in ("attn", "temporal_attn")}
    assert model.no_weight_decay() == own | {"cls_token", "reg_token", "pos_embed", "time_embed"}
    assert own <= {name for name, _ in model.named_parameters()}


def test_settings_name_the_mixers_and_their_options():
    options = {"echo": {"decay": 0.1}, "fibottention": {"w_min": 2}}
    model = TimeSformer(**TINY, space_attention="echo", time_attention="dense", mixer_options=options)
    assert model.attention_settings() == {"space": "echo", "time": "dense", "decay": 0.1}
    model = TimeSformer(**TINY, space_attention="echo", time_attention="fibottention", mixer_options=options)
    assert model.attention_settings() == {
        "space": "echo", "time": "fibottention", "echo.decay": 0.1, "fibottention.w_min": 2,
    }  # fmt: skip


def test_a_class_token_that_sees_nothing_is_refused(table):
    table.setitem(MIXERS, "echo", row())
    with pytest.raises(ValueError, match=r"joint_attention='echo' .* set pooling='mean' or 'class_attention'$"):
        TimeSformer(**TINY, joint_attention="echo", attention_type="joint_space_time")
    with pytest.raises(ValueError, match=r"space_attention='echo' .* set pooling='mean' or 'class_attention'$"):
        TimeSformer(**TINY, space_attention="echo")
    TimeSformer(**TINY, time_attention="echo")  # where no class token takes part
    TimeSformer(**TINY, **ECHO, pooling="mean")


def test_a_mixer_of_prefix_tokens_needs_some(table):
    table.setitem(MIXERS, "echo", row(needs=frozenset({"prefix"}), serves=frozenset({"class_token"})))
    with pytest.raises(ValueError, match=r"joint_attention='echo' mixes through prefix tokens.* set class_token=True"):
        TimeSformer(
            **TINY, joint_attention="echo", attention_type="joint_space_time", class_token=False, pooling="mean"
        )
    with pytest.raises(ValueError, match="time_attention='echo' mixes through prefix tokens"):
        TimeSformer(**TINY, time_attention="echo")
    TimeSformer(**TINY, space_attention="echo")


def test_a_mixer_of_fixed_tokens_takes_clips_of_one_size(table):
    table.setitem(MIXERS, "echo", row(needs=frozenset({"fixed_tokens"}), serves=frozenset({"class_token"})))
    model = TimeSformer(**TINY, time_attention="echo")
    model(torch.randn(CLIP))
    with pytest.raises(ValueError, match=r"time_attention='echo' .*\(3, 2, 3\) tokens, got \(3, 3, 3\); set img_size"):
        model(torch.randn(1, 3, 3, 24, 24))


def test_processes_cannot_slice_the_tokens_of_every_mixer():
    model = TimeSformer(**TINY, joint_attention="echo", attention_type="joint_space_time")
    message = "joint_attention='echo' needs all tokens .* set joint_attention to 'dense' or .*'fibottention'.*, or let"
    with pytest.raises(ValueError, match=message):
        model.share_tokens(None)
