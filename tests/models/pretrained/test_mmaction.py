"""TimeSformers of MMAction2: a plain model with its names and its attention gives the logits that ours gives.

Written after mmaction/models/backbones/timesformer.py and mmaction/models/common/transformer.py: torch's own
``nn.MultiheadAttention``, divided attention as two parts with a norm each, ``FFN`` as a sequence within a sequence.
"""

import pytest
import torch
from einops import rearrange
from torch import nn

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

DIM, HEADS, FRAMES, DEPTH = 24, 3, 4, 2
TYPES = ["divided_space_time", "joint_space_time", "space_only"]


def norm():
    return nn.LayerNorm(DIM, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, temporal=False, with_norm=True):
        super().__init__()
        self.attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        if with_norm:
            self.norm = norm()
        if temporal:
            self.temporal_fc = nn.Linear(DIM, DIM)

    def attend(self, x):
        return self.attn(x, x, x)[0]


class FFN(nn.Module):
    def __init__(self, with_norm):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU()), nn.Linear(4 * DIM, DIM))
        if with_norm:
            self.norm = norm()


class Layer(nn.Module):
    def __init__(self, divided):
        super().__init__()
        parts = [Attention(temporal=True), Attention()] if divided else [Attention(with_norm=False)]
        self.attentions, self.ffns = nn.ModuleList(parts), nn.ModuleList([FFN(divided)])
        self.divided = divided
        if not divided:
            self.norms = nn.ModuleList([norm(), norm()])

    def forward(self, x):
        ffn = self.ffns[0]
        if not self.divided:
            x = x + self.attentions[0].attend(self.norms[0](x))
            return x + ffn.layers(self.norms[1](x))
        temporal, spatial = self.attentions
        patches = x[:, 1:]
        lines = temporal.norm(rearrange(patches, "b (p t) m -> (b p) t m", t=FRAMES))
        lines = temporal.temporal_fc(temporal.attend(lines))
        patches = patches + rearrange(lines, "(b p) t m -> b (p t) m", b=len(x))
        x = torch.cat((x[:, :1], patches), 1)
        frames = rearrange(patches, "b (p t) m -> (b t) p m", t=FRAMES)
        frames = torch.cat((x[:, :1].repeat_interleave(FRAMES, 0), frames), 1)
        frames = spatial.attend(spatial.norm(frames))
        first = rearrange(frames[:, 0], "(b t) m -> b t m", t=FRAMES).mean(1, keepdim=True)
        x = x + torch.cat((first, rearrange(frames[:, 1:], "(b t) p m -> b (p t) m", t=FRAMES)), 1)
        return x + ffn.layers(ffn.norm(x))


class Backbone(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, DIM, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, DIM))
        if kind != "space_only":
            self.time_embed = nn.Parameter(torch.zeros(1, FRAMES, DIM))
        self.transformer_layers = nn.Module()
        self.transformer_layers.layers = nn.ModuleList(Layer(kind == "divided_space_time") for _ in range(DEPTH))
        self.norm = norm()

    def forward(self, video):
        batch = len(video)
        x = self.patch_embed.projection(rearrange(video, "b c t h w -> (b t) c h w")).flatten(2).mT
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        if self.kind != "space_only":
            patches = rearrange(x[:, 1:], "(b t) p m -> (b p) t m", b=batch) + self.time_embed
            x = torch.cat((x[:batch, :1], rearrange(patches, "(b p) t m -> b (p t) m", b=batch)), 1)
        for layer in self.transformer_layers.layers:
            x = layer(x)
        if self.kind == "space_only":
            x = rearrange(x, "(b t) n m -> b t n m", b=batch).mean(1)
        return self.norm(x)[:, 0]


class Recognizer(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.backbone, self.cls_head = Backbone(kind), nn.Module()
        self.cls_head.fc_cls = nn.Linear(DIM, 5)

    def forward(self, video):
        return self.cls_head.fc_cls(self.backbone(video))


def timesformer(kind, **options):
    return TimeSformer(
        img_size=32, patch_size=8, num_classes=5, num_frames=FRAMES, embed_dim=DIM, depth=DEPTH, num_heads=HEADS,
        attention_type=kind, **options,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("as_file", [False, True])
def test_logits_are_mmactions(kind, as_file, randomize, tmp_path):
    theirs, ours = randomize(Recognizer(kind)), randomize(timesformer(kind), seed=1)
    weights = theirs.state_dict()
    if as_file:
        weights = tmp_path / "timesformer.pth"
        torch.save({"meta": {"epoch": 15, "mmaction_version": "0.24"}, "state_dict": theirs.state_dict()}, weights)
    report = load_pretrained(ours, weights, strict=True)
    assert report.layout == "MMAction2 TimeSformer"
    assert len(report.loaded) == len(ours.state_dict())
    clip = torch.randn(2, 3, FRAMES, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip), atol=1e-5, rtol=1e-5)


def test_a_missing_part_is_named(randomize):
    state = randomize(Recognizer("divided_space_time")).state_dict()
    name = "backbone.transformer_layers.layers.1.attentions.1.attn.in_proj_weight"
    del state[name]
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.weight is missing"):
        load_pretrained(timesformer("divided_space_time"), state)
    with pytest.raises(CheckpointError, match="norm1"):
        load_pretrained(timesformer("divided_space_time"), randomize(Recognizer("joint_space_time")).state_dict() | {
            "backbone.transformer_layers.layers.0.norms.0.weight": torch.zeros(3)
        })  # fmt: skip
