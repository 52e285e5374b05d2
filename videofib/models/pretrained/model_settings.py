"""Settings that a model's weights do not show: what a TimeSformer has, and what the source of some weights says it had.

A model is the same as another only if these agree, too: with another number of heads, the same tensors give other
logits. A module shows all of them, a config most, a state dict none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from timm.layers import Attention, Mlp, PatchEmbed
from timm.layers.activations import GELU, GELUTanh, QuickGELU
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.xcit import Xcit
from torch import nn

from videofib.mixers import Grid
from videofib.models.timesformer import TimeSformer

Settings = Mapping[str, object]

OWN_MODEL_TYPE = "videofib_timesformer"  # of exports with our own code for transformers
ANY = object()  # a setting that the source's own inputs do not have, such as time in an image model
SETTINGS = (
    "heads", "activation", "blocks", "patches", "norm epsilon", "pooling", "last norm's epsilon", "positions",
    "clips of other sizes", "attention over",
)  # fmt: skip

_GELU, _GELU_TANH, _QUICK_GELU = "gelu", "gelu approximated by tanh", "quick_gelu"
_OWN_ACTIVATIONS = {"gelu": _GELU, "gelu_tanh": _GELU_TANH, "quick_gelu": _QUICK_GELU}
_ACTIVATIONS = {  # transformers' names
    **{name: _GELU for name in ("gelu", "gelu_python")},
    **{
        name: _GELU_TANH for name in ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh")
    },
}
_CLASS_TOKEN, _MEAN = "the class token", "the mean, then the last norm"
_POOLINGS = {  # of our own models
    "class_token": _CLASS_TOKEN,
    "mean": _MEAN,
    "class_attention": "class attention",
}
_PRE_NORM, _SIDE_BY_SIDE, _NEAREST = "pre-norm", "side by side", "nearest positions"
_IMAGE_MODELS = ("vit", "deit", "clip_vision_model")
_OTHER_POOLINGS = {  # by the classes of transformers
    "DeiTForImageClassificationWithTeacher": "the class and the distillation token, with a classifier each",
    "CLIPForImageClassification": "the mean, without a last norm",
}
_DINOV2 = ("dinov2", "dinov2_with_registers")
_GRID = "grid"  # beside the settings that are compared: positions are resized to another one
_LEARNED = {
    "learned": "learned",
    "learned_joint": "learned, one for each token",
    "sinusoid": "sinusoid",
    "fourier": "a map of sines and cosines",
}
_PLAIN = {"blocks": _PRE_NORM, "patches": _SIDE_BY_SIDE, "clips of other sizes": _NEAREST}


def never_fits(setting: str, theirs: object, ours: object) -> bool:
    """Whether weights mean something else in a model in which this setting is another."""
    return setting in ("heads", "blocks", "patches") or (
        setting == "activation" and {theirs, ours} != {_GELU, _GELU_TANH}
    )


def has_joint_positions(settings: Settings) -> bool:
    """Whether there is a position for each token of a clip."""
    return settings.get("positions") == _LEARNED["learned_joint"]


def clip_grid(settings: Settings) -> Grid | None:
    """(t, h, w) of the clips that a model with a position for each token is for, None where that is not known."""
    grid = settings.get(_GRID)
    return grid if isinstance(grid, tuple) else None


def of_timesformer(model: TimeSformer) -> Settings:
    """All ``SETTINGS`` of a model of ours."""
    return {
        **_PLAIN,
        "heads": model.num_heads,
        "activation": _OWN_ACTIVATIONS[model.activation],
        "norm epsilon": model.blocks[0].norm2.eps,
        "pooling": _POOLINGS[model.pooling],
        "last norm's epsilon": model.norm.eps,
        "positions": _LEARNED[model.position],
        _GRID: model.grid,
        "attention over": model.attention_type,
    }


def of_module(module: nn.Module) -> Settings:
    """The settings of a model of ours, transformers' or timm's; of another module that its blocks are unknown.

    A subclass, and a module around a backbone, may do anything with its tokens: its pooling is left out.
    """
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    if isinstance(module, TimeSformer):
        found, is_known = of_timesformer(module), type(module) is TimeSformer
    elif to_dict is not None:
        config = {**to_dict(), "architectures": [type(module).__name__]}
        found, is_known = of_hugging_face(config), type(module).__module__.startswith("transformers.")
    elif isinstance(module, Xcit):
        found, is_known = _of_xcit(module), type(module) is Xcit
    elif isinstance(module, VisionTransformer):
        found, is_known = _of_timm(module), True  # of its subclasses it tells the pooling's name
    else:
        inner = [part for part in module.modules() if isinstance(part, (TimeSformer, VisionTransformer))]
        if len(inner) != 1:
            return {"blocks": f"of {type(module).__name__}"}
        found, is_known = of_module(inner[0]), False
    return found if is_known else {name: value for name, value in found.items() if name != "pooling"}


def _of_xcit(model: Xcit) -> Settings:
    if not all(block.tokens_norm for block in model.cls_attn_blocks):
        return {"blocks": "of class attention whose second norm is of the class token alone"}
    return {
        **_PLAIN,
        "heads": _common(block.attn.num_heads for block in model.blocks),
        "activation": _common(_activation(block.mlp.act) for block in model.blocks),
        "norm epsilon": _common(block.norm2.eps for block in model.blocks),
        "pooling": _POOLINGS["class_attention"],
        "last norm's epsilon": model.norm.eps,
        "positions": _LEARNED["fourier"],
        "attention over": ANY,
    }


def _of_timm(model: VisionTransformer) -> Settings:
    if unknown := {part for block in model.blocks for part in _unknown_parts(block)}:
        return {"blocks": f"of {', '.join(sorted(unknown))}"}
    norms = [layer for layer in [model.norm_pre, *model.blocks.modules()] if isinstance(layer, nn.LayerNorm)]
    return {
        "heads": _common(block.attn.num_heads for block in model.blocks),
        "activation": _common(_activation(block.mlp.act) for block in model.blocks),
        "blocks": _PRE_NORM,
        "patches": _timm_patches(model.patch_embed),
        "norm epsilon": _common(norm.eps for norm in norms),
        "pooling": _timm_pooling(model),
        "last norm's epsilon": _common(getattr(norm, "eps", None) for norm in _last_norms(model)),
        "positions": _timm_positions(model),
        "clips of other sizes": "bicubic positions" if model.dynamic_img_size else _NEAREST,
        "attention over": ANY,
    }


def of_hugging_face(config: Mapping[str, object]) -> Settings:
    """What the config of a model of transformers says; what it does not say is left out."""
    vision = config.get("vision_config")
    if config.get("model_type") == "clip" and isinstance(vision, Mapping):  # the rest is of its text model
        config = {**vision, "model_type": "clip_vision_model", "architectures": config.get("architectures")}
    kind, mean = config.get("model_type"), config.get("use_mean_pooling")
    activation, eps = config.get("hidden_act"), config.get("layer_norm_eps")
    known: dict[str, object] = {
        "heads": config.get("num_attention_heads"),
        "activation": _ACTIVATIONS.get(str(activation), activation),
        "norm epsilon": eps,
        "last norm's epsilon": eps,
        "attention over": config.get("attention_type"),
    }
    if kind in ("timesformer", "vit", "deit", "vivit", "clip_vision_model"):
        known |= {**_PLAIN, "pooling": _CLASS_TOKEN, "positions": "learned"}
    if kind == "timesformer" and config.get("attention_type") == "space_only":
        known |= {"attention over": "space_only, with logits of each frame"}  # the published code averages over frames
    if kind in _IMAGE_MODELS:
        known |= {"attention over": ANY}
    if kind == "vivit":
        known |= {"positions": _LEARNED["learned_joint"], "attention over": "joint_space_time"}
        known |= {_GRID: _vivit_grid(config)}
    if other := _OTHER_POOLINGS.get(_architecture(config)):
        known |= {"pooling": other}
    if kind == "videomae":
        known |= {**_PLAIN, "pooling": None, "positions": "sinusoid", "attention over": "joint_space_time"}
        if mean is True:  # the norm behind the mean has torch's own epsilon, whatever the config says
            known |= {"pooling": _MEAN, "last norm's epsilon": nn.LayerNorm(1).eps}
        elif mean is False:
            known |= {"pooling": "the first patch"}
    elif kind in _DINOV2 and not config.get("use_swiglu_ffn"):
        # the pooling is left out: its classifier has the class token and the mean of the patches side by side
        known |= {**_PLAIN, "positions": "learned", "clips of other sizes": "bicubic positions", "attention over": ANY}
    elif kind == OWN_MODEL_TYPE:
        pooling = _POOLINGS.get(str(config.get("pooling")), config.get("pooling"))
        known |= {**_PLAIN, "pooling": pooling, "positions": _LEARNED.get(str(config.get("position")))}
    elif kind not in (
        "timesformer",
        "vivit",
        "videofib",
        *_IMAGE_MODELS,
        None,
    ):  # videofib: its config has all settings
        known |= {"blocks": f"of {kind}"}
    return {name: value for name, value in known.items() if value is not None}


def _vivit_grid(config: Mapping[str, object]) -> Grid | None:
    """(t, h, w) of a ViViT's clips, None where its config has no usable sizes."""
    size, tubelet = config.get("image_size"), config.get("tubelet_size")
    sides = size if isinstance(size, list | tuple) else (size, size)
    if not isinstance(tubelet, list | tuple) or len(tubelet) != 3 or len(sides) != 2:
        return None
    pixels = (config.get("num_frames"), *sides)
    if not all(type(number) is int and number > 0 for number in (*pixels, *tubelet)):
        return None
    length, height, width = (whole // part for whole, part in zip(pixels, tubelet, strict=True))  # type: ignore[operator]
    return length, height, width


def _architecture(config: Mapping[str, object]) -> str:
    """The name of the class that wrote the config, or ""."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _unknown_parts(block: nn.Module) -> Iterator[str]:
    """The parts of a timm ViT's block that a TimeSformer does not have."""
    if type(block) is not Block:
        yield type(block).__name__
        return
    for part, usual in ((block.attn, Attention), (block.mlp, Mlp)):
        if type(part) is not usual:
            yield type(part).__name__
        elif not isinstance(part.norm, nn.Identity):
            yield f"{type(part).__name__} with a norm within"
    if getattr(block.attn, "gate", None) is not None:
        yield "Attention with a gate"
    for name, layer in block.named_modules():
        is_norm = name.endswith(("norm", "norm1", "norm2")) and not isinstance(layer, nn.Identity)
        if is_norm and not (isinstance(layer, nn.LayerNorm) and layer.elementwise_affine):
            yield (
                f"{type(layer).__name__} without a weight" if isinstance(layer, nn.LayerNorm) else type(layer).__name__
            )


def _activation(layer: Any) -> str:
    if isinstance(layer, nn.GELU):
        return _GELU if layer.approximate == "none" else _GELU_TANH
    return {GELU: _GELU, GELUTanh: _GELU_TANH, QuickGELU: _QUICK_GELU}.get(type(layer), type(layer).__name__)


def _timm_patches(embed: nn.Module) -> str:
    if type(embed) is not PatchEmbed:
        return f"of {type(embed).__name__}"
    if embed.proj.stride != embed.proj.kernel_size:
        return f"{embed.proj.stride[0]} pixels apart"
    return _SIDE_BY_SIDE if isinstance(embed.norm, nn.Identity) else "with a norm"


def _last_norms(model: VisionTransformer) -> list[nn.Module]:
    """The norms behind the blocks: in front of the pooling, behind it, or none."""
    return [layer for layer in (model.norm, model.fc_norm) if not isinstance(layer, nn.Identity)]


def _timm_pooling(model: VisionTransformer) -> str:
    if type(model) is not VisionTransformer:
        return f"that of {type(model).__name__}"
    if len(_last_norms(model)) != 1 or not isinstance(_last_norms(model)[0], nn.LayerNorm):
        return f"{model.global_pool or 'none'}, with {len(_last_norms(model))} layer norms behind the blocks"
    if model.global_pool == "token":  # its norm may stand before or after
        return _CLASS_TOKEN
    if model.global_pool != "avg":
        return model.global_pool or "none"
    if model.pool_include_prefix and model.num_prefix_tokens:
        return "the mean of prefix and patches"
    return "the last norm, then the mean" if isinstance(model.fc_norm, nn.Identity) else _MEAN


def _timm_positions(model: VisionTransformer) -> str:
    if model.pos_embed is None:
        return "none"
    return "learned, also of registers" if model.reg_token is not None and not model.no_embed_class else "learned"


def _common(values: Iterable[object]) -> object:
    """The value that all have; where they differ, all of them."""
    found = list(dict.fromkeys(values))
    return found[0] if len(found) == 1 else tuple(found)
