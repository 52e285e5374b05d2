"""FCViT's published code (``models/fcvit.py``): mixer, context and block, also with the options that no model uses.

Tensors are (b, d, h, w).
"""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import nn

from tests.mixers.published.case import Result
from videofib.mixers import LayerSpec
from videofib.mixers.fcvit import FCViT, SpatialAttention
from videofib.mixers.global_context import GlobalContext
from videofib.models.conv_mlp import ConvMlp

SYSTEMS = ["fcvit"]
CODE_DEFAULTS = {
    "global_context": {"weighted_gc": True, "gc_reduction": 8, "compete": False, "head": 8},
    "spatial_mixer": {
        **{"use_globalcontext": True, "useSecondTokenMix": True, "mix_size_1": 5, "mix_size_2": 7},
        **{"fc_factor": 8, "fc_min_value": 16, "useSpatialAtt": True},
    },
    "channel_mixer": {"useChannelAtt": True, "useDWconv": True, "DWconv_size": 3},
    "spatial_att": {"kernel_size": 3, "dim_reduction": 8},
    "channel_att": {"size_1": 3, "size_2": 5},
}


def compute(case):
    args, x = case.config["args"], case.inputs["input"]
    grid, params = (1, *x.shape[2:]), {**CODE_DEFAULTS, **args.get("params", {})}
    if case.name.startswith("fcvit_context"):
        module = Context(args["dim"], params)
    elif case.name.startswith("fcvit_mixer"):
        module = Mixer(args["dim"], grid, params)
    else:
        module = Block(args["dim"], grid, params, args.get("mlp_ratio", 4))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in case.state.items()}
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    assert own.keys() == leaves.keys()
    weights = {name: leaf.view(own[name]) for name, leaf in leaves.items()}  # 1 x 1 convolutions are linear layers
    return Result({"output": torch.func.functional_call(module, weights, x)}, leaves)


def context_options(params):
    context = params["global_context"]
    return dict(compete=context["compete"], weighted=context["weighted_gc"])


class Context(GlobalContext):
    def __init__(self, dim, params):
        sizes = params["global_context"]["head"], params["global_context"]["gc_reduction"]
        super().__init__(dim, *sizes, **context_options(params))

    def forward(self, x):
        return super().forward(x.flatten(2)).view_as(x)


class Mixer(FCViT):
    def __init__(self, dim, grid, params):
        spatial, context = params["spatial_mixer"], params["global_context"]
        super().__init__(
            LayerSpec(dim, 1, 0, grid, order="t h w"),
            kernel=spatial["mix_size_1"],
            second_kernel=spatial["mix_size_2"],
            groups=context["head"],
            reduction=context["gc_reduction"],
            context=spatial["use_globalcontext"],
            twice=spatial["useSecondTokenMix"],
            bottleneck=spatial["fc_factor"],
            min_width=spatial["fc_min_value"],
            **context_options(params),
        )
        if spatial["useSpatialAtt"]:
            sizes = params["spatial_att"]
            self.spatial_att = SpatialAttention(dim, sizes["kernel_size"], sizes["dim_reduction"])
        self.grid = grid

    def forward(self, x):
        return over_tokens(x, lambda tokens: super(Mixer, self).forward(tokens, self.grid)[0])


def over_tokens(x, function):
    """A function of (b, n, d) over (b, d, h, w)."""
    return function(x.flatten(2).mT).mT.reshape(x.shape)


class ChannelAttention(nn.Module):
    """Adds to every channel what two convolutions along the channels make of the means of GELU."""

    def __init__(self, sizes):
        super().__init__()
        first, second = sizes["size_1"], sizes["size_2"]
        self.channelConv1 = nn.Conv1d(1, 1, first, padding=first // 2)
        self.channelConv2 = nn.Conv1d(1, 1, second, padding=second // 2)

    def forward(self, x):
        """(b, n, d) -> (b, n, d)."""
        mean = F.gelu(x).mean(1, keepdim=True)
        return x + self.channelConv2(F.gelu(self.channelConv1(mean)))


class Block(nn.Module):
    def __init__(self, dim, grid, params, mlp_ratio):
        super().__init__()
        channel, hidden = params["channel_mixer"], int(dim * mlp_ratio)
        self.grid, self.local = grid, channel["useDWconv"]
        self.layer_scale_1, self.layer_scale_2 = (nn.Parameter(torch.empty(dim)) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(1, dim), nn.GroupNorm(1, dim)
        self.token_mixer = Mixer(dim, grid, params)
        if self.local:
            self.channel_mixer = ConvMlp(dim, hidden, order="t h w", kernel=channel["DWconv_size"])
        else:
            self.channel_mixer = Mlp(dim, hidden)
        if channel["useChannelAtt"]:
            self.channel_mixer.channel_att = ChannelAttention(params["channel_att"])

    def forward(self, x):
        x = x + self.layer_scale_1[:, None, None] * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * over_tokens(self.norm2(x), self.mix_channels)

    def mix_channels(self, x):
        y = self.channel_mixer(x, self.grid) if self.local else self.channel_mixer(x)
        return self.channel_mixer.channel_att(y) if hasattr(self.channel_mixer, "channel_att") else y
