"""The configuration: every key, its default, and how a file and the command line change it.

Key names are those of PySlowFast and TimeSformer where they have one; ours stand beside them under
ATTENTION and FIBOTTENTION. A key that nothing reads is a defect, and a test looks for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from fvcore.common.config import CfgNode

from videofib.config.checks import ConfigError, check_config, value_of

_C = CfgNode()

_C.OUTPUT_DIR = "runs/default"
_C.RNG_SEED = 0
_C.LOG_PERIOD = 10  # steps between json_stats lines
_C.NUM_GPUS = 1  # processes on this machine: one a GPU, or that many CPU processes where there is none
_C.NUM_SHARDS = 1  # machines
_C.SHARD_ID = 0  # which of them this is
_C.INIT_METHOD = "tcp://localhost:9999"  # rendezvous of several machines; one machine picks a free port itself
_C.GLOBAL_BATCH_SIZE = 0  # videos an optimizer step; above TRAIN.BATCH_SIZE gradients are accumulated; 0: off

_C.TRAIN = CfgNode()
_C.TRAIN.ENABLE = True
_C.TRAIN.BATCH_SIZE = 8  # videos a forward pass, over all processes; each gives AUG.NUM_SAMPLE clips
_C.TRAIN.EVAL_PERIOD = 1  # epochs
_C.TRAIN.CHECKPOINT_PERIOD = 1  # epochs
_C.TRAIN.CHECKPOINT_STEPS = 0  # batches between checkpoints within an epoch; 0: none
_C.TRAIN.AUTO_RESUME = True  # go on from the newest checkpoint in OUTPUT_DIR
_C.TRAIN.CHECKPOINT_FILE_PATH = ""  # weights to start from: ours, TimeSformer's, Hugging Face's, timm's, VideoMAE's
_C.TRAIN.STRATEGY = "ddp"  # of several processes: ddp (each has all weights) | fsdp (each its share of them)
_C.TRAIN.SHARDED_CHECKPOINTS = False  # fsdp: folders .dcp into which each process writes its share, not one file
_C.TRAIN.MIXED_PRECISION = False
_C.TRAIN.MIXED_PRECISION_DTYPE = "bf16"  # bf16 | fp16
_C.TRAIN.FREEZE = []  # patterns of parameters that do not learn, such as ["patch_embed.*", "blocks.[0-5].*"]
_C.TRAIN.LINEAR_PROBE = False  # only the classifier learns, on what the model sees without dropout
_C.TRAIN.COMPILE = False  # compile the model (torch.compile); the first steps then take minutes
_C.TRAIN.CONTEXT_PARALLEL = 1  # processes that share the tokens of each clip, for clips too long for one; also in tests
_C.TRAIN.EMA_DECAY = 0.0  # 0: no moving average of the weights

_C.CHECKPOINT = CfgNode()
_C.CHECKPOINT.KEEP = 0  # so many of the newest stay, and the best; 0: all. CHECKPOINT_STEPS has its own rule
_C.CHECKPOINT.METRIC = (
    "auto"  # the best by: auto (top1_acc, or mAP) | top1_acc | top5_acc | mean_class_acc | mAP | none
)

_C.TEST = CfgNode()
_C.TEST.ENABLE = True
_C.TEST.BATCH_SIZE = 8  # views a forward pass, over all processes
_C.TEST.NUM_ENSEMBLE_VIEWS = 10  # temporal clips a video
_C.TEST.NUM_SPATIAL_CROPS = 3  # 1 (centre) or 3
_C.TEST.CHECKPOINT_FILE_PATH = ""  # likewise; empty: the newest in OUTPUT_DIR; best: its best
_C.TEST.ENSEMBLE_LOGITS = False  # average raw logits as TimeSformer's own tool does, not softmax scores
_C.TEST.RESUME = True  # go on where an earlier test of the same weights, settings and videos was killed
_C.TEST.SAVE_SECONDS = 30.0  # which costs at most so many seconds of each process's work
_C.TEST.UNREADABLE = "wrong"  # a video that does not decode: counted "wrong", or "exclude"d

_C.DATA = CfgNode()
_C.DATA.PATH_TO_DATA_DIR = (
    ""  # has train.csv, val.csv, test.csv, or folders train/<class>/*.mp4, or shards (also as a URL)
)
_C.DATA.PATH_PREFIX = ""  # put before the paths in the lists
_C.DATA.PATH_LABEL_SEPARATOR = " "
_C.DATA.DECODING_BACKEND = "auto"  # auto: PyAV from keyframes, checked | pyav: in order | decord | torchcodec
_C.DATA.READ_SHORT_SIDE = 0  # pixels; read larger videos scaled down to it, which costs less. 0: as they are
_C.DATA.NUM_FRAMES = 8
_C.DATA.SAMPLING = "dense"  # dense | uniform: a frame of each of NUM_FRAMES segments (TSN), SAMPLING_RATE is ignored
_C.DATA.SAMPLING_RATE = 32  # source frames between two frames of a clip, at TARGET_FPS
_C.DATA.TARGET_FPS = 30
_C.DATA.MEAN = [0.45, 0.45, 0.45]
_C.DATA.STD = [0.225, 0.225, 0.225]
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]  # short side in pixels, drawn for each clip
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []  # crop this share of the area, such as [0.08, 1.0]; []: off
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []  # width over height of these crops, such as [0.75, 1.3333]
_C.DATA.TRAIN_CROP_SIZE = 224
_C.DATA.TEST_CROP_SIZE = 224
_C.DATA.RANDOM_FLIP = True
_C.DATA.ENSEMBLE_METHOD = "sum"  # sum (mean over views) | max

_C.AUG = CfgNode()
_C.AUG.NUM_SAMPLE = 1  # clips of a training video, each with its own frames and views; holds with ENABLE False, too
_C.AUG.ENABLE = False
_C.AUG.COLOR_JITTER = 0.0  # of brightness, contrast, saturation; also beside AA_TYPE, where PySlowFast leaves it out
_C.AUG.AA_TYPE = "rand-m7-n2"  # rand-m<0 to 10>-n<operations> (RandAugment) | trivial | augmix; empty: none
_C.AUG.RE_PROB = 0.25  # random erasing
_C.AUG.RE_MODE = "pixel"  # const | rand | pixel, as timm's RandomErasing
_C.AUG.RE_COUNT = 1

_C.MIXUP = CfgNode()
_C.MIXUP.ENABLE = False
_C.MIXUP.ALPHA = 0.8
_C.MIXUP.CUTMIX_ALPHA = 1.0
_C.MIXUP.PROB = 1.0
_C.MIXUP.SWITCH_PROB = 0.5
_C.MIXUP.LABEL_SMOOTH_VALUE = 0.0  # label smoothing; holds with MIXUP.ENABLE False, too

_C.DISTILL = CfgNode()
_C.DISTILL.CONFIG = ""  # the config of a teacher, such as its run's config.yaml; empty: none
_C.DISTILL.CHECKPOINT = ""  # its weights, as TRAIN.CHECKPOINT_FILE_PATH
_C.DISTILL.ALPHA = 0.5  # its share of the loss, of which the labels have the rest
_C.DISTILL.TEMPERATURE = 4.0  # the higher, the more its lesser classes count

_C.MULTIGRID = CfgNode()  # of TimeSformer (arXiv 1912.00998)
_C.MULTIGRID.LONG_CYCLE = False  # smaller clips in larger batches, at larger learning rates, in early epochs
_C.MULTIGRID.LONG_CYCLE_FACTORS = [  # of frames and crop, each for as many epochs; batches make up for both
    *([0.25, 0.5**0.5], [0.5, 0.5**0.5], [0.5, 1.0], [1.0, 1.0])
]

_C.DATA_LOADER = CfgNode()
_C.DATA_LOADER.NUM_WORKERS = 2  # a process
_C.DATA_LOADER.SAMPLER = "shuffle"  # of training videos: shuffle | class_balanced | length_bucketed
_C.DATA_LOADER.SHARD_WINDOW = 0  # mix the videos of so many shards at a time; 0: of all
_C.DATA_LOADER.TIME_LIMIT = 60.0  # seconds to read a video, after which it is left out; 0: no limit
_C.DATA_LOADER.PIN_MEMORY = True  # has an effect only where there is a GPU

_C.REPORT = CfgNode()
_C.REPORT.ENABLE = True  # write OUTPUT_DIR/report.html after training and after testing
_C.REPORT.NUM_VIDEOS = 6  # surest mistakes whose frames are kept in it; 0: no pictures

_C.TENSORBOARD = CfgNode()
_C.TENSORBOARD.ENABLE = False  # write all figures to OUTPUT_DIR/tensorboard, too

_C.WANDB = CfgNode()
_C.WANDB.ENABLE = False  # send all figures to Weights & Biases, too
_C.WANDB.PROJECT = "videofib"

_C.MLFLOW = CfgNode()
_C.MLFLOW.ENABLE = False  # send all figures to MLflow, too
_C.MLFLOW.TRACKING_URI = ""  # of a server, or sqlite:///FILE; empty: the folder OUTPUT_DIR/mlruns
_C.MLFLOW.EXPERIMENT = "videofib"

_C.MODEL = CfgNode()
_C.MODEL.MODEL_NAME = "TimeSformer"  # TimeSformer | SlowFast_R50 | X3D_S | X3D_M | R2plus1D_R50 | MViT_B
_C.MODEL.NUM_CLASSES = 400
_C.MODEL.LOSS_FUNC = "cross_entropy"  # cross_entropy | bce_logit: videos of several classes (lists: path 3,7), mAP
_C.MODEL.DROPOUT_RATE = 0.5  # before the classifier, of all models but TimeSformer

_C.SLOWFAST = CfgNode()
_C.SLOWFAST.ALPHA = 4  # the slow pathway sees NUM_FRAMES / ALPHA frames

_C.TIMESFORMER = CfgNode()
_C.TIMESFORMER.ATTENTION_TYPE = "divided_space_time"  # divided_space_time | joint_space_time | space_only
_C.TIMESFORMER.PATCH_SIZE = 16
_C.TIMESFORMER.TUBELET_SIZE = 1  # frames a token covers
_C.TIMESFORMER.SIZE = "base"  # tiny | small | base | large, as of the ViT family
_C.TIMESFORMER.EMBED_DIM = 0  # 0: as SIZE says
_C.TIMESFORMER.DEPTH = 0  # 0: as SIZE says
_C.TIMESFORMER.NUM_HEADS = 0  # 0: as SIZE says
_C.TIMESFORMER.MLP_RATIO = 4.0
_C.TIMESFORMER.QKV_BIAS = True
_C.TIMESFORMER.QK_NORM = False  # layer norms over each head's queries and keys
_C.TIMESFORMER.LAYER_SCALE = 0.0  # start of the residual branches' learned scales; 0: none
_C.TIMESFORMER.NORM_EPS = 1e-6
_C.TIMESFORMER.PRE_NORM = False  # a layer norm in front of the blocks, as CLIP has
_C.TIMESFORMER.CLASS_TOKEN = True
_C.TIMESFORMER.NUM_REGISTERS = 0  # tokens without a place, behind the class token
_C.TIMESFORMER.POOLING = "class_token"  # class_token | mean (of the patches)
_C.TIMESFORMER.POSITION = "learned"  # learned | sinusoid (fixed, as VideoMAE)
_C.TIMESFORMER.DROP_RATE = 0.0
_C.TIMESFORMER.ATTN_DROP_RATE = 0.0
_C.TIMESFORMER.DROP_PATH_RATE = 0.1
_C.TIMESFORMER.TOKEN_ORDER = "hwt"  # order of joint tokens: hwt (frames of one patch adjacent) | thw
_C.TIMESFORMER.POSITION_INIT_STD = 0.0  # of position and time embeddings; 0: as published
_C.TIMESFORMER.POSITION_RESIZE = "bicubic"  # of weights from another resolution: bicubic | nearest
_C.TIMESFORMER.TIME_RESIZE = "nearest"  # of weights from another number of frames: nearest | linear
_C.TIMESFORMER.GRADIENT_CHECKPOINTING = False  # save memory by computing activations again in the backward pass
_C.TIMESFORMER.RECOMPUTE = "block"  # then: block (all of it) | cheap (all but matrix products and attention)
_C.TIMESFORMER.RECOMPUTE_EVERY = 1  # and in every n-th block only

_C.ATTENTION = CfgNode()
_C.ATTENTION.SPACE = "dense"  # attention within a frame: dense | fibottention
_C.ATTENTION.TIME = "dense"  # attention over frames, divided only
_C.ATTENTION.JOINT = "dense"  # attention over all space-time tokens
_C.ATTENTION.BACKEND = "auto"  # auto | cpu | triton | gather | reference

_C.FIBOTTENTION = CfgNode()
_C.FIBOTTENTION.W_MIN = 5
_C.FIBOTTENTION.W_MAX = 0  # 0: a third of the tokens
_C.FIBOTTENTION.VARIANT = "wythoff"  # wythoff | modified | modified_early
_C.FIBOTTENTION.HEAD_ORDER = "none"  # none | per_layer | first_layer
_C.FIBOTTENTION.MASKING = "exclude"  # exclude (softmax over the support) | zero_logit (the released code)

_C.SOLVER = CfgNode()
_C.SOLVER.OPTIMIZING_METHOD = "sgd"  # sgd | adamw | lamb | lion
_C.SOLVER.BASE_LR = 0.005
_C.SOLVER.BASE_LR_BATCH_SIZE = 0  # the batch that all LRs are meant for; they scale with the actual one. 0: as they are
_C.SOLVER.LR_POLICY = "steps_with_relative_lrs"  # steps_with_relative_lrs | cosine | linear | one_cycle
_C.SOLVER.STEPS = [0, 11, 14]  # epochs at which LRS change
_C.SOLVER.LRS = [1, 0.1, 0.01]  # relative to BASE_LR
_C.SOLVER.COSINE_END_LR = 0.0  # of linear and one_cycle, too
_C.SOLVER.MAX_EPOCH = 15
_C.SOLVER.WARMUP_EPOCHS = 0.0
_C.SOLVER.WARMUP_START_LR = 0.0
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.NESTEROV = True
_C.SOLVER.BETAS = [0.9, 0.999]
_C.SOLVER.WEIGHT_DECAY = 1e-4
_C.SOLVER.ZERO_WD_1D_PARAM = True  # no weight decay on biases, norms and embeddings
_C.SOLVER.LAYER_DECAY = 1.0  # TimeSformer: how much more slowly a layer learns than the one above; 0.75 is usual
_C.SOLVER.CLIP_GRAD_L2NORM = 0.0  # 0: no clipping
_C.SOLVER.MAX_SKIPPED_STEPS = 10  # so many steps in a row whose gradient is not finite end the run


def default_config() -> CfgNode:
    """A fresh copy of the defaults, free to change."""
    return _C.clone()


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults, then the YAML file (and its ``_BASE_``, if it names one), then ``KEY VALUE`` pairs.

    Args:
        path: a YAML file, or None for the defaults alone.
        overrides: ``["SOLVER.BASE_LR", "0.1", ...]``, as they come from the command line.

    Returns:
        A frozen config.

    Raises:
        ConfigError: unknown key (the nearest known one is named), a value of another type, an odd number of
            overrides, or values that contradict each other.
    """
    cfg = default_config()
    if path is not None:
        if not Path(path).is_file():
            raise ConfigError(f"no config file at {path}")
        for key, value in _flatten(_read_yaml(path)):
            _set(cfg, key, value, source=str(path))
    if len(overrides) % 2:
        raise ConfigError(f"overrides come in pairs KEY VALUE, got {len(overrides)} words: {' '.join(overrides)}")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _set(cfg, key, value, source="the command line")
    check_config(cfg)
    cfg.freeze()
    return cfg


def differences(before: str, cfg: CfgNode, sections: Sequence[str] = ()) -> list[str]:
    """What changed between an earlier config (``cfg.dump()``'s text) and this one: ``["SOLVER.BASE_LR 0.1 -> 0.2"]``.

    Args:
        sections: looks at these alone (``"SOLVER"``); by default at all keys.

    Raises:
        ConfigError: ``before`` is no config; it comes from a checkpoint, which may be anybody's.
    """
    try:
        earlier = dict(_flatten(yaml.safe_load(before) or {}))
    except (yaml.YAMLError, AttributeError) as error:  # AttributeError: text that is no mapping
        reason = " ".join(str(error).split())
        raise ConfigError(f"the config kept in the checkpoint cannot be read: {reason}") from error
    return [
        f"{key} {earlier[key]} -> {value_of(cfg, key)}"
        for key in known_keys(cfg)
        if key in earlier and earlier[key] != value_of(cfg, key) and (not sections or key.split(".")[0] in sections)
    ]


def known_keys(cfg: CfgNode | None = None, prefix: str = "") -> list[str]:
    """All full key names (``SOLVER.BASE_LR``), in order of definition."""
    keys = []
    for name, value in (_C if cfg is None else cfg).items():
        if isinstance(value, CfgNode):
            keys += known_keys(value, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _read_yaml(path: str | Path) -> dict:
    try:
        content = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    except (yaml.YAMLError, OSError, TypeError) as error:  # TypeError: an empty file
        raise ConfigError(f"{path} is no config: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no config: expected sections and keys, got {type(content).__name__}")
    return content


def _flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _set(cfg: CfgNode, key: str, value: object, source: str) -> None:
    names = known_keys(cfg)
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown key {key} in {source}; the nearest known key is {near}")
    value = CfgNode._decode_cfg_value(value)  # "1e-4" -> 1e-4, as YAML itself does not
    if isinstance(value_of(cfg, key), float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        cfg.merge_from_list([key, value])
    except ValueError as error:
        raise ConfigError(f"{key} in {source}: {error}") from error
