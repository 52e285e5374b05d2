"""YAML files of PySlowFast, TimeSformer and Fibottention's release: what their keys and values mean here.

A key that only they have, or a value in their spelling, is understood in any file; no file has to say whose it is. What
has a counterpart is translated. What only arranges the same thing in another way is ignored, and one line for each file
names every such key with the reason. What would change the network, the loss or the updates, and cannot be done here,
is refused. The command line stays strict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import NamedTuple

from videofib.config.declare import Setting, as_number
from videofib.config.yaml_reader import BadYaml, read_list
from videofib.printable import printable

# MODEL.MODEL_NAME or MODEL.ARCH there, in lower case without "ptv" -> MODEL.MODEL_NAME here
_MODELS = {
    "vit_base_patch16_224": "TimeSformer",
    "vit": "TimeSformer",
    "slowfast": "SlowFast_R50",
    "x3d": "X3D_S",  # S and M are one network
    "mvit": "MViT_B",
    "r2plus1d": "R2plus1D_R50",
}
_UNIFORM_SETS = ("ssv2",)  # whose clips are one frame of each segment
_OTHER_TASKS = ("ava", "imagenet", "imagenetprefetch")


class _Fixed(NamedTuple):
    """A network's setting that has one value here."""

    models: Sequence[str]
    value: object


_SLOWFAST, _X3D, _MVIT = ("SlowFast_R50",), ("X3D_S", "X3D_M"), ("MViT_B",)
_RESNETS = ("SlowFast_R50", "R2plus1D_R50")

# keys that describe a network -> the networks that they are about, and the value that these have here
_NETWORKS: dict[str, Sequence[_Fixed]] = {
    "RESNET.DEPTH": [_Fixed(_RESNETS, 50)],
    "RESNET.WIDTH_PER_GROUP": [_Fixed(_RESNETS, 64)],
    "RESNET.NUM_GROUPS": [_Fixed(_RESNETS, 1)],
    "RESNET.TRANS_FUNC": [_Fixed(_SLOWFAST, "bottleneck_transform"), _Fixed(_X3D, "x3d_transform")],
    "RESNET.NUM_BLOCK_TEMP_KERNEL": [_Fixed(_SLOWFAST, [[3, 3], [4, 4], [6, 6], [3, 3]])],
    "RESNET.SPATIAL_STRIDES": [_Fixed(_SLOWFAST, [[1, 1], [2, 2], [2, 2], [2, 2]])],
    "RESNET.SPATIAL_DILATIONS": [_Fixed(_SLOWFAST, [[1, 1]] * 4)],
    "SLOWFAST.BETA_INV": [_Fixed(_SLOWFAST, 8)],
    "SLOWFAST.FUSION_CONV_CHANNEL_RATIO": [_Fixed(_SLOWFAST, 2)],
    "SLOWFAST.FUSION_KERNEL_SZ": [_Fixed(_SLOWFAST, 7)],
    "NONLOCAL.LOCATION": [_Fixed(_SLOWFAST, [[[], []]] * 4)],
    "X3D.WIDTH_FACTOR": [_Fixed(_X3D, 2)],
    "X3D.DEPTH_FACTOR": [_Fixed(_X3D, 2.2)],
    "X3D.BOTTLENECK_FACTOR": [_Fixed(_X3D, 2.25)],
    "X3D.DIM_C1": [_Fixed(_X3D, 12)],
    "X3D.DIM_C5": [_Fixed(_X3D, 2048)],
    "X3D.SCALE_RES2": [_Fixed(_X3D, False)],
    "X3D.BN_LIN5": [_Fixed(_X3D, False)],
    "X3D.CHANNELWISE_3x3x3": [_Fixed(_X3D, True)],
    "MVIT.DEPTH": [_Fixed(_MVIT, 16)],
    "MVIT.NUM_HEADS": [_Fixed(_MVIT, 1)],
    "MVIT.EMBED_DIM": [_Fixed(_MVIT, 96)],
    "MVIT.PATCH_2D": [_Fixed(_MVIT, False)],
    "MVIT.PATCH_KERNEL": [_Fixed(_MVIT, [3, 7, 7])],
    "MVIT.PATCH_STRIDE": [_Fixed(_MVIT, [2, 4, 4])],
    "MVIT.PATCH_PADDING": [_Fixed(_MVIT, [1, 3, 3])],
    "MVIT.MLP_RATIO": [_Fixed(_MVIT, 4)],
    "MVIT.QKV_BIAS": [_Fixed(_MVIT, True)],
    "MVIT.DROPPATH_RATE": [_Fixed(_MVIT, 0.2)],
    "MVIT.DROPOUT_RATE": [_Fixed(_MVIT, 0)],
    "MVIT.NORM": [_Fixed(_MVIT, "layernorm")],
    "MVIT.MODE": [_Fixed(_MVIT, "conv")],
    "MVIT.CLS_EMBED_ON": [_Fixed(_MVIT, True)],
    "MVIT.SEP_POS_EMBED": [_Fixed(_MVIT, True)],
    "MVIT.DIM_MUL": [_Fixed(_MVIT, [[1, 2], [3, 2], [14, 2]])],
    "MVIT.HEAD_MUL": [_Fixed(_MVIT, [[1, 2], [3, 2], [14, 2]])],
    "MVIT.POOL_KVQ_KERNEL": [_Fixed(_MVIT, [3, 3, 3])],
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": [_Fixed(_MVIT, [1, 8, 8])],
    "MVIT.POOL_Q_STRIDE": [_Fixed(_MVIT, [[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]])],
}
_NETWORK_SECTIONS = {"X3D": _X3D, "MVIT": _MVIT}  # all of whose other keys would change the network

# keys, or SECTION.*, that are ignored -> why
_IGNORED = {
    "TRAIN.DATASET": "the lists in DATA.PATH_TO_DATA_DIR say what the data set is",
    "TEST.DATASET": "the lists in DATA.PATH_TO_DATA_DIR say what the data set is",
    "MODEL.ARCH": "MODEL.MODEL_NAME names the model",
    "MODEL.SINGLE_PATHWAY_ARCH": "the model knows its pathways",
    "MODEL.MULTI_PATHWAY_ARCH": "the model knows its pathways",
    "MODEL.HEAD_ACT": "models return logits, and evaluation applies softmax or sigmoid",
    "MODEL.FC_INIT_STD": "each model has its own initial weights",
    "MODEL.ACT_CHECKPOINT": "TIMESFORMER.GRADIENT_CHECKPOINTING saves memory here",
    "DATA.INPUT_CHANNEL_NUM": "videos have 3 channels, and the model knows its pathways",
    "DATA.INV_UNIFORM_SAMPLE": "training clips are scaled to a size drawn uniformly from TRAIN_JITTER_SCALES",
    "DATA.REVERSE_INPUT_CHANNEL": "clips are RGB; of weights that were trained on BGR, such as the published ones of "
    "SSv2, the patch embedding needs its channels reversed",
    "DATA.CROP_SIZE": "TRAIN_CROP_SIZE and TEST_CROP_SIZE are the crops",
    "DATA.TEMPORAL_EXTENT": "NUM_FRAMES and SAMPLING_RATE describe the clips",
    "DATA.USE_OFFSET_SAMPLING": "the first frame of a clip is random in any case",
    "DATA.SKIP_ROWS": "lists have no header",
    "DATA.COLOR_JITTER": "AUG.COLOR_JITTER is the key",
    "DATA.AUTO_AUGMENT": "AUG.AA_TYPE is the key",
    "DATA.RE_PROB": "AUG.RE_PROB is the key",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "DATA_LOADER.NUM_WORKERS decode",
    "TRAIN.FINETUNE": "TRAIN.CHECKPOINT_FILE_PATH always starts at epoch 0",
    "TRAIN.CHECKPOINT_EPOCH_RESET": "TRAIN.CHECKPOINT_FILE_PATH always starts at epoch 0",
    "TRAIN.CHECKPOINT_INFLATE": "the patch embedding of images is inflated",
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": "prefixes of names are recognized",
    "DATA.MULTI_LABEL": "MODEL.LOSS_FUNC says whether videos have several classes",
    "TIMESFORMER.PRETRAINED_MODEL": "TRAIN.CHECKPOINT_FILE_PATH is the key",
    "MIXUP.ENABLED": "MIXUP.ENABLE is the key",
    "TEST.SAVE_RESULTS_PATH": "scores are in OUTPUT_DIR/test_scores.parquet",
    "AUG.INTERPOLATION": "frames are scaled bilinearly",
    "MIXUP.MODE": "a batch is mixed as one",
    "MIXUP.CUTMIX_MINMAX": "the area is drawn from Beta(CUTMIX_ALPHA, CUTMIX_ALPHA)",
    "BN.*": "batch norms use running statistics, and SOLVER.ZERO_WD_1D_PARAM says whether they decay",
    "RESNET.ZERO_INIT_FINAL_BN": "each model has its own initial weights",
    "RESNET.ZERO_INIT_FINAL_CONV": "each model has its own initial weights",
    "RESNET.INPLACE_RELU": "it changes no result",
    "RESNET.STRIDE_1X1": "the 3 x 3 convolution has the stride",
    "NONLOCAL.*": "no model has non-local blocks",
    "MVIT.ZERO_DECAY_POS_CLS": "SOLVER.ZERO_WD_1D_PARAM covers embeddings",
    "SOLVER.BASE_LR_SCALE_NUM_SHARDS": "TRAIN.BATCH_SIZE is the total over machines; SOLVER.BASE_LR_BATCH_SIZE scales",
    "SOLVER.COSINE_AFTER_WARMUP": "the cosine is the one of all epochs, and warm-up rises to it",
    "SOLVER.GAMMA": "no policy here reads it",
    "SOLVER.STEP_SIZE": "no policy here reads it",
    "SOLVER.WARMUP_FACTOR": "SOLVER.WARMUP_START_LR is the start of warm-up",
    "LOG_MODEL_INFO": "the number of parameters is always logged",
    "DIST_BACKEND": "NCCL on GPUs, Gloo on CPUs",
    "MULTIGRID.*": "only MULTIGRID.LONG_CYCLE is here",
    "TENSORBOARD.*": "TENSORBOARD.ENABLE writes all figures",
    **dict.fromkeys(("BENCHMARK.*", "DEMO.*"), "no command here reads it"),
    **dict.fromkeys(("AVA.*", "DETECTION.*", "RPN.*"), "there is no detection here"),
    **dict.fromkeys(("MASK.*", "CONTRASTIVE.*", "TASK"), "there is no self-supervised training here"),
}
_OFF = ("false", "none", "", 0.0)
# keys that must be off, or have one of these values
_REFUSED: dict[str, Sequence[object]] = {
    **dict.fromkeys(("DETECTION.ENABLE", "DEMO.ENABLE", "MASK.ENABLE", "TASK", "MULTIGRID.SHORT_CYCLE"), _OFF),
    **dict.fromkeys(("SOLVER.DAMPENING", "SOLVER.LARS_ON", "SOLVER.CLIP_GRAD_VAL", "MODEL.DROPCONNECT_RATE"), _OFF),
    **dict.fromkeys(("AUG.RE_SPLIT", "DATA.DEIT_TRANSFORMS", "EMA.ENABLED", "MODEL.FROZEN_BN"), _OFF),
    **dict.fromkeys(("TRAIN.CHECKPOINT_TYPE", "TEST.CHECKPOINT_TYPE"), ("pytorch",)),
    "BN.NORM_TYPE": ("batchnorm", "sync_batchnorm"),
}


def meaning(key: str) -> str:
    """What to say of a key that only those projects have, as words that follow its name; empty for other keys."""
    if key in _REFUSED or key in _NETWORKS or _reason(key):
        return f"PySlowFast's or TimeSformer's, and has no meaning here ({_reason(key) or 'it cannot be changed'})"
    return ""


def translate(settings: Sequence[Setting], model: str | None = None) -> tuple[list[Setting], list[str], list[str]]:
    """The settings of a file in this project's keys and values.

    Args:
        model: MODEL.MODEL_NAME of the files that this one changes; None where they name none.

    Returns:
        (settings, notes, faults): those that take their place; a line on what was read otherwise than written and one
        on what was ignored; a line for each setting that cannot be honoured. Without notes and faults nothing was
        foreign.
    """
    given = {setting.key: setting for setting in settings}
    model = _model(given) or model
    implied: list[Setting] = []
    own: list[Setting] = []
    read_as: list[str] = []
    ignored: dict[str, list[str]] = {}
    faults: list[str] = []
    for setting in settings:
        key, value = setting.key, _plain(setting.written)
        if fault := _fault(setting, value, model):
            faults.append(fault)
        elif key in _IMPLIES and (consequences := _consequences(setting, value, given)):
            implied += [setting._replace(key=name, written=written) for name, written in consequences.items()]
            read_as.append(f"{key} {_shown(setting)} as {', '.join(f'{k} {v}' for k, v in consequences.items())}")
        elif key in _SPELLINGS and (written := _SPELLINGS[key](value)):
            own.append(setting._replace(written=written))
            read_as.append(f"{key} {_shown(setting)} as {written}")
        elif key in _NETWORKS or key in _REFUSED or _reason(key) or key in _IMPLIES:
            reason = _reason(key) or ("it is off" if key in _REFUSED else "it is about another model")
            if any(model in fixed.models for fixed in _NETWORKS.get(key, ())):
                reason = f"as it is in {model}"
            ignored.setdefault(reason, []).append(key)
        else:
            own.append(setting)
    notes = []
    if read_as:
        notes.append(f"read {settings[0].source}: {'; '.join(read_as)}")
    if ignored:
        listed = "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in ignored.items())
        notes.append(f"ignored {settings[0].source}, as keys of PySlowFast and TimeSformer: {listed}")
    if model == "TimeSformer" and notes and not _starts_from(given):
        notes.append(
            "TimeSformer's own code starts from weights of ImageNet, which nothing loads here: set "
            "TRAIN.CHECKPOINT_FILE_PATH for other than random weights"
        )
    replaced = {setting.key for setting in implied}
    return [*implied, *(setting for setting in own if setting.key not in replaced)], notes, faults


def _model(given: dict[str, Setting]) -> str | None:
    """The model that a file names in either spelling, None where it names none."""
    for key in ("MODEL.MODEL_NAME", "MODEL.ARCH"):
        if key in given:
            written = given[key].written
            return _MODELS.get(_model_word(written), written if isinstance(written, str) else None)
    return None


def _model_word(written: object) -> str:
    return str(written).lower().removeprefix("ptv")


def _starts_from(given: dict[str, Setting]) -> bool:
    keys = ("TRAIN.CHECKPOINT_FILE_PATH", "TIMESFORMER.PRETRAINED_MODEL")
    return any(key in given and _plain(given[key].written) not in _OFF for key in keys)


def _fault(setting: Setting, value: object, model: str | None) -> str:
    """Why a setting cannot be honoured; empty where it can."""
    key, where = setting.key, f"{setting.key} {_shown(setting)} {setting.where}"
    if key in _REFUSED and value not in _REFUSED[key]:
        allowed = "off" if _REFUSED[key] is _OFF else " or ".join(map(str, _REFUSED[key]))
        return f"{where} cannot be honoured here; it must be {allowed}"
    for fixed in _NETWORKS.get(key, ()):
        if model in fixed.models and value != _plain(fixed.value):
            return f"{where} describes another network: {model} has {fixed.value} here"
    section = key.partition(".")[0]
    if model in _NETWORK_SECTIONS.get(section, ()) and key not in {**_NETWORKS, **_IGNORED} and value not in _OFF:
        return f"{where} describes another network than {model}"
    if key == "MODEL.ARCH" and _model_word(setting.written) not in _MODELS:
        return f"{where} is no model here; known are {', '.join(dict.fromkeys(_MODELS.values()))}"
    if key in ("TRAIN.DATASET", "TEST.DATASET") and value in _OTHER_TASKS:
        return f"{where} is no data set of videos with classes"
    return ""


def _reason(key: str) -> str:
    """Why a key is ignored; empty for others."""
    if key in _IGNORED:
        return _IGNORED[key]
    section, dot, _ = key.partition(".")
    if key in _OWN or not dot:
        return ""
    if section in _NETWORK_SECTIONS or section in ("RESNET", "EMA"):
        return "it is about another model" if section != "EMA" else "TRAIN.EMA_DECAY is the key"
    return _IGNORED.get(f"{section}.*", "")


_OWN = ("MULTIGRID.LONG_CYCLE", "MULTIGRID.LONG_CYCLE_FACTORS", "TENSORBOARD.ENABLE")


def _consequences(setting: Setting, value: object, given: dict[str, Setting]) -> dict[str, object]:
    """What a setting implies, but for keys that the file sets itself."""
    implied = _IMPLIES[setting.key](value, setting.written)
    return {key: v for key, v in implied.items() if key not in given or _plain(given[key].written) in _OFF}


# key of theirs -> the keys here that follow from its value, plain and as written
_IMPLIES: dict[str, Callable[[object, object], dict[str, object]]] = {
    "MODEL.ARCH": lambda value, _: {"MODEL.MODEL_NAME": _MODELS[_model_word(value)]},
    "TIMESFORMER.PRETRAINED_MODEL": lambda value, written: (
        {} if value in _OFF else {"TRAIN.CHECKPOINT_FILE_PATH": written}
    ),
    "TRAIN.DATASET": lambda value, _: {"DATA.SAMPLING": "uniform"} if value in _UNIFORM_SETS else {},
    "DATA.MULTI_LABEL": lambda value, _: {"MODEL.LOSS_FUNC": "bce_logit"} if value == "true" else {},
    "MIXUP.ENABLED": lambda _, written: {"MIXUP.ENABLE": written},
}


def _model_name(value: object) -> str:
    return "" if value == "timesformer" else _MODELS.get(_model_word(value), "")


def _rand_augment(value: object) -> str:
    """``rand-m7-n4`` of timm's ``rand-m7-n4-mstd0.5-inc1``, whose other parts vary the magnitude."""
    match = re.fullmatch(r"(rand-m\d+-n\d+)(-(mstd[\d.]+|inc[01]|p[\d.]+|w0))+", str(value))
    return match[1] if match else ""


# key of both -> a value in their spelling as it is written here, empty where it needs no translation
_SPELLINGS: dict[str, Callable[[object], str]] = {
    "MODEL.MODEL_NAME": _model_name,
    "MODEL.LOSS_FUNC": lambda value: {"soft_cross_entropy": "cross_entropy", "bce": "bce_logit"}.get(str(value), ""),
    "DATA.DECODING_BACKEND": lambda value: "auto" if value in ("torchvision", "ffmpeg") else "",
    "AUG.AA_TYPE": _rand_augment,
}


def _shown(setting: Setting) -> str:
    return shorten(printable(setting.written), width=60, placeholder="...")


def _plain(written: object) -> object:
    """A written value in a form that compares: numbers, lists, and texts in lower case (``1.0`` is ``1``)."""
    if isinstance(written, str) and written[:1] in ("[", "("):
        try:
            written = read_list(written)
        except BadYaml:
            return written.lower()
    if isinstance(written, list | tuple):
        return [_plain(entry) for entry in written]
    number = as_number(written)
    return str(written).lower() if number is None else float(number)
