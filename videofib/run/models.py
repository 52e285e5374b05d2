"""From a config to a model."""

from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from videofib.attention import ContextGroup
from videofib.config import mixers_of_blocks
from videofib.mixers import MIXERS
from videofib.mixers.options import check_options
from videofib.models.timesformer import SIZES, TimeSformer


def timesformer(cfg: CfgNode) -> TimeSformer:
    """The TimeSformer that MODEL, TIMESFORMER, ATTENTION and the sections of the mixers describe."""
    options, attention = cfg.TIMESFORMER, cfg.ATTENTION
    size = SIZES[options.SIZE]
    depth = options.DEPTH or size["depth"]
    return TimeSformer(
        img_size=cfg.DATA.TRAIN_CROP_SIZE,
        patch_size=options.PATCH_SIZE,
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_frames=cfg.DATA.NUM_FRAMES,
        tubelet_size=options.TUBELET_SIZE,
        embed_dim=options.EMBED_DIM or size["embed_dim"],
        depth=depth,
        num_heads=options.NUM_HEADS or size["num_heads"],
        mlp_ratio=options.MLP_RATIO,
        qkv_bias=options.QKV_BIAS,
        qk_norm=options.QK_NORM,
        layer_scale=options.LAYER_SCALE or None,
        norm_eps=options.NORM_EPS,
        pre_norm=options.PRE_NORM,
        drop_rate=options.DROP_RATE,
        attn_drop_rate=options.ATTN_DROP_RATE,
        drop_path_rate=options.DROP_PATH_RATE,
        class_token=options.CLASS_TOKEN,
        num_registers=options.NUM_REGISTERS,
        pooling=options.POOLING,
        stem=options.STEM,
        position=options.POSITION,
        local_interaction=options.LOCAL_INTERACTION,
        local_norm=options.LOCAL_NORM,
        activation=options.ACTIVATION,
        attention_type=options.ATTENTION_TYPE,
        space_attention=mixers_of_blocks("ATTENTION.SPACE", attention.SPACE, depth),
        time_attention=mixers_of_blocks("ATTENTION.TIME", attention.TIME, depth),
        joint_attention=mixers_of_blocks("ATTENTION.JOINT", attention.JOINT, depth),
        mixer_options=mixer_options(cfg),
        token_order=options.TOKEN_ORDER,
        position_init_std=options.POSITION_INIT_STD or None,
        gradient_checkpointing=options.GRADIENT_CHECKPOINTING,
        recompute=options.RECOMPUTE,
        recompute_every=options.RECOMPUTE_EVERY,
        attention_backend=attention.BACKEND,
        **fewer_tokens(cfg),
    )


def fewer_tokens(cfg: CfgNode) -> dict[str, Any]:
    """The options of SLIMMING, DEFORMABLE_MERGING and MERGING, None for each that is off."""
    slimming, deformable, merging = cfg.SLIMMING, cfg.DEFORMABLE_MERGING, cfg.MERGING
    slim = {"after": slimming.AFTER, "ratio": slimming.RATIO, "per_frame": slimming.PER_FRAME}
    merge = {"tokens": merging.TOKENS, "proportional": merging.PROPORTIONAL}
    return {
        "slimming": slim if slimming.AFTER else None,
        "deformable_merging": {"after": deformable.AFTER} if deformable.AFTER else None,
        "merging": merge if merging.TOKENS else None,
    }


def mixer_options(cfg: CfgNode) -> dict[str, dict[str, object]]:
    """The options of each mixer: of a section that has its name, in capitals, and of ATTENTION.OPTIONS.

    Raises:
        ValueError: an option that the mixer does not have, or a value of another type.
    """
    given = {name: dict(options) for name, options in cfg.ATTENTION.OPTIONS.items()}
    for name, options in given.items():
        try:
            check_options(name, MIXERS[name], options)
        except ValueError as error:
            raise ValueError(f"ATTENTION.OPTIONS: {error}") from error
    sections = {name: _section(cfg, name) for name in MIXERS if name.upper() in cfg}
    return {name: sections.get(name, {}) | given.get(name, {}) for name in [*sections, *given]}


def _section(cfg: CfgNode, name: str) -> dict[str, object]:
    """The options of a mixer that its section has; 0 stands for a default of None."""
    defaults = MIXERS[name].options
    section = {key.lower(): value for key, value in cfg[name.upper()].items()}
    return {
        option: None if value == 0 and option in defaults and defaults[option] is None else value
        for option, value in section.items()
    }


# pytorchvideo takes seconds to import, so it is imported only where a baseline is built


def slowfast_r50(cfg: CfgNode) -> nn.Module:
    from videofib.models import baselines

    data = cfg.DATA
    return baselines.slowfast_r50(
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_frames=data.NUM_FRAMES,
        crop_size=data.TRAIN_CROP_SIZE,
        alpha=cfg.SLOWFAST.ALPHA,
        dropout=cfg.MODEL.DROPOUT_RATE,
    )


def x3d(cfg: CfgNode) -> nn.Module:
    from videofib.models import baselines

    return baselines.x3d(cfg.MODEL.NUM_CLASSES, cfg.DATA.TRAIN_CROP_SIZE, cfg.MODEL.DROPOUT_RATE)


def r2plus1d_r50(cfg: CfgNode) -> nn.Module:
    from videofib.models import baselines

    return baselines.r2plus1d_r50(cfg.MODEL.NUM_CLASSES, cfg.DATA.TRAIN_CROP_SIZE, cfg.MODEL.DROPOUT_RATE)


def mvit_b(cfg: CfgNode) -> nn.Module:
    from videofib.models import baselines

    data = cfg.DATA
    if data.TRAIN_CROP_SIZE != data.TEST_CROP_SIZE:
        raise ValueError(
            "MViT's position embedding fits one crop size, so DATA.TRAIN_CROP_SIZE and DATA.TEST_CROP_SIZE must be the "
            f"same; they are {data.TRAIN_CROP_SIZE} and {data.TEST_CROP_SIZE}"
        )
    return baselines.mvit_b(cfg.MODEL.NUM_CLASSES, data.NUM_FRAMES, data.TRAIN_CROP_SIZE, cfg.MODEL.DROPOUT_RATE)


MODELS = {
    "TimeSformer": timesformer,
    "SlowFast_R50": slowfast_r50,
    "X3D_S": x3d,  # S and M differ only in their clips, which DATA describes
    "X3D_M": x3d,
    "R2plus1D_R50": r2plus1d_r50,
    "MViT_B": mvit_b,
}


def build_model(cfg: CfgNode) -> nn.Module:
    """The model that MODEL.MODEL_NAME names, (B, C, T, H, W) -> logits (B, K), on the default device.

    Raises:
        ValueError: an unknown name, or sizes that do not fit; the message shows them.
    """
    if cfg.MODEL.MODEL_NAME not in MODELS:
        raise ValueError(f"unknown MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME!r}; known: {', '.join(MODELS)}")
    return MODELS[cfg.MODEL.MODEL_NAME](cfg)


def share_tokens(model: nn.Module, context: ContextGroup) -> None:
    """From now on each process of ``context`` computes its slice of the tokens of every clip.

    Raises:
        ValueError: a model whose tokens processes cannot share; the message says why.
    """
    if not isinstance(model, TimeSformer):
        raise ValueError(
            f"processes can share the clips of a TimeSformer only, this model is {type(model).__name__}; set "
            "MODEL.MODEL_NAME TimeSformer, or TRAIN.CONTEXT_PARALLEL 1"
        )
    model.share_tokens(context)
