"""The config: defaults, files, overrides, and errors that name the key."""

import ast
import re
from pathlib import Path

import pytest

from videofib.config import ConfigError, differences, known_keys, load_config

ROOT = Path(__file__).parents[2]
SHARED_CLIPS = "NUM_GPUS 4 TRAIN.CONTEXT_PARALLEL 2 TIMESFORMER.ATTENTION_TYPE joint_space_time"


def test_a_file_and_then_the_command_line_change_the_defaults(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  BASE_LR: 0.1\n  MAX_EPOCH: 3\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\nSOLVER:\n  MAX_EPOCH: 4\n  WEIGHT_DECAY: 5e-2\n")
    cfg = load_config(tmp_path / "mine.yaml", ["SOLVER.MAX_EPOCH", "5", "TRAIN.ENABLE", "False"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.WEIGHT_DECAY) == (0.1, 5, 0.05)
    assert cfg.TRAIN.ENABLE is False
    assert cfg.is_frozen()


def test_a_dumped_config_loads_as_itself(tmp_path):
    cfg = load_config(None, ["SOLVER.STEPS", "[0, 3, 4]", "DATA.PATH_LABEL_SEPARATOR", "','"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "config.yaml") == cfg


def test_an_unknown_key_is_answered_with_the_nearest_known_one(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key SOLVER\.BASELR in the command line.*SOLVER\.BASE_LR"):
        load_config(None, ["SOLVER.BASELR", "0.1"])
    (tmp_path / "x.yaml").write_text("TEST:\n  NUM_CROPS: 3\n")
    with pytest.raises(ConfigError, match=r"unknown key TEST\.NUM_CROPS in .*x\.yaml"):
        load_config(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "text",
    ["", "just words", "- a\n- b\n", "SOLVER: [", "_BASE_: gone.yaml", "A: !!python/object/apply:os.getcwd []"],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml is no config: [^\n]+$"):
        load_config(tmp_path / "x.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no config file at .*gone\.yaml"):
        load_config(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("SOLVER.BASE_LR", "pairs KEY VALUE, got 1 words"),
        ("SOLVER.MAX_EPOCH many", "SOLVER.MAX_EPOCH in the command line"),
        ("TRAIN.BATCH_SIZE 0", "TRAIN.BATCH_SIZE is 0; it must be above 0"),
        ("SOLVER.BASE_LR -0.1", "SOLVER.BASE_LR is -0.1; it must be above 0"),
        ("RNG_SEED -1", "RNG_SEED is -1; it must not be negative"),
        ("SOLVER.WEIGHT_DECAY -1", "SOLVER.WEIGHT_DECAY is -1.0; it must not be negative"),
        ("DISTILL.CONFIG a.yaml", "DISTILL.CONFIG and DISTILL.CHECKPOINT, a teacher and its weights, go together"),
        ("DISTILL.ALPHA 1.5", "DISTILL.ALPHA is 1.5; it must be above 0 and at most 1"),
        ("DISTILL.ALPHA 0", "DISTILL.ALPHA is 0.0; it must be above 0"),
        ("DISTILL.TEMPERATURE 0", "DISTILL.TEMPERATURE is 0.0; it must be above 0"),
        ("DISTILL.CONFIG a DISTILL.CHECKPOINT b MODEL.LOSS_FUNC bce_logit", "set MODEL.LOSS_FUNC cross_entropy"),
        ("TRAIN.FREEZE [1]", "TRAIN.FREEZE is [1]; it must be a list of patterns"),
        ("TRAIN.FREEZE ['a'] TRAIN.LINEAR_PROBE True", "freezes all but the classifier already; set TRAIN.FREEZE []"),
        ("CHECKPOINT.KEEP -1", "CHECKPOINT.KEEP is -1; it must not be negative"),
        ("CHECKPOINT.METRIC mAP", "CHECKPOINT.METRIC mAP is no figure of MODEL.LOSS_FUNC cross_entropy; set"),
        ("CHECKPOINT.METRIC top1_acc MODEL.LOSS_FUNC bce_logit", "top1_acc is no figure of MODEL.LOSS_FUNC bce_logit"),
        ("SLOWFAST.ALPHA 0", "SLOWFAST.ALPHA is 0; it must be above 0"),
        ("MODEL.DROPOUT_RATE 1.0", "MODEL.DROPOUT_RATE is 1.0; it must be at least 0 and below 1"),
        ("TRAIN.EMA_DECAY 1.0", "TRAIN.EMA_DECAY is 1.0; it must be at least 0 and below 1"),
        ("TEST.NUM_SPATIAL_CROPS 2", "TEST.NUM_SPATIAL_CROPS is 2; it must be one of 1, 3"),
        ("SOLVER.LR_POLICY exponential", "must be one of steps_with_relative_lrs, cosine, linear"),
        ("SOLVER.LR_POLICY one_cycle", "SOLVER.WARMUP_EPOCHS 0.0, which must be above 0 and below SOLVER.MAX_EPOCH 15"),
        ("SOLVER.LR_POLICY one_cycle SOLVER.WARMUP_EPOCHS 15", "SOLVER.WARMUP_EPOCHS 15.0, which must be above 0"),
        ("SOLVER.BASE_LR_BATCH_SIZE -8", "SOLVER.BASE_LR_BATCH_SIZE is -8; it must not be negative"),
        ("TIMESFORMER.RECOMPUTE_EVERY 0", "TIMESFORMER.RECOMPUTE_EVERY is 0; it must be above 0"),
        ("SOLVER.LAYER_DECAY 1.1", "SOLVER.LAYER_DECAY is 1.1; it must be above 0 and at most 1"),
        ("NUM_GPUS 3", "TRAIN.BATCH_SIZE 8 is the total over processes and must divide by NUM_GPUS x NUM_SHARDS = 3"),
        ("TRAIN.STRATEGY zero", "TRAIN.STRATEGY is 'zero'; it must be one of ddp, fsdp"),
        ("TRAIN.SHARDED_CHECKPOINTS True", "needs sharded weights: set TRAIN.STRATEGY fsdp"),
        ("TRAIN.CONTEXT_PARALLEL 0", "TRAIN.CONTEXT_PARALLEL is 0; it must be above 0"),
        ("NUM_GPUS 4 TRAIN.CONTEXT_PARALLEL 3", "TRAIN.CONTEXT_PARALLEL 3 must divide NUM_GPUS x NUM_SHARDS = 4"),
        (
            "NUM_GPUS 2 TRAIN.CONTEXT_PARALLEL 2",
            "TRAIN.CONTEXT_PARALLEL 2 needs TIMESFORMER.ATTENTION_TYPE joint_space_time; it is divided_space_time",
        ),
        (
            "NUM_GPUS 2 TRAIN.CONTEXT_PARALLEL 2 MODEL.MODEL_NAME X3D_S",
            "TRAIN.CONTEXT_PARALLEL 2 needs MODEL.MODEL_NAME TimeSformer; it is X3D_S",
        ),
        (
            f"{SHARED_CLIPS} TIMESFORMER.ATTN_DROP_RATE 0.1",
            "TRAIN.CONTEXT_PARALLEL 2 needs TIMESFORMER.ATTN_DROP_RATE 0.0; it is 0.1",
        ),
        (
            f"{SHARED_CLIPS} TRAIN.BATCH_SIZE 3",
            "TRAIN.BATCH_SIZE 3 is the total over processes and must divide by "
            "NUM_GPUS x NUM_SHARDS / TRAIN.CONTEXT_PARALLEL = 2",
        ),
        (f"{SHARED_CLIPS} MIXUP.ENABLE True TRAIN.BATCH_SIZE 2", "2 over 2 process(es), times AUG.NUM_SAMPLE 1, must"),
        ("SHARD_ID 1", "SHARD_ID 1 must be below NUM_SHARDS 1"),
        ("GLOBAL_BATCH_SIZE 12", "GLOBAL_BATCH_SIZE 12 must be a multiple of TRAIN.BATCH_SIZE 8"),
        (
            "MIXUP.ENABLE True NUM_GPUS 8",
            "TRAIN.BATCH_SIZE 8 over 8 process(es), times AUG.NUM_SAMPLE 1, must be even; it is 1",
        ),
        ("MIXUP.ENABLE True MIXUP.ALPHA 0 MIXUP.CUTMIX_ALPHA 0", "needs MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA above 0"),
        ("MODEL.LOSS_FUNC bce", "MODEL.LOSS_FUNC is 'bce'; it must be one of cross_entropy, bce_logit"),
        (
            "MODEL.LOSS_FUNC bce_logit MIXUP.ENABLE True",
            "for videos of one class, MODEL.LOSS_FUNC bce_logit for several; set MIXUP.ENABLE False",
        ),
        (
            "MODEL.LOSS_FUNC bce_logit MIXUP.LABEL_SMOOTH_VALUE 0.1",
            "no label smoothing; set MIXUP.LABEL_SMOOTH_VALUE 0",
        ),
        ("MODEL.LOSS_FUNC bce_logit DATA_LOADER.SAMPLER class_balanced", "; set DATA_LOADER.SAMPLER shuffle"),
        ("SOLVER.MOMENTUM 0", "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0"),
        ("SOLVER.STEPS [0,3]", "have as many entries as SOLVER.LRS"),
        ("SOLVER.STEPS [0,14,11]", "must ascend"),
        ("DATA.TRAIN_CROP_SIZE 300", "not below DATA.TRAIN_CROP_SIZE 300"),
        ("DATA.SAMPLING sparse", "DATA.SAMPLING is 'sparse'; it must be one of dense, uniform"),
        ("AUG.NUM_SAMPLE 0", "AUG.NUM_SAMPLE is 0; it must be above 0"),
        ("AUG.COLOR_JITTER -0.4", "AUG.COLOR_JITTER is -0.4; it must not be negative"),
        (
            "DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.0]",
            "RELATIVE [0.08, 1.0] and DATA.TRAIN_JITTER_ASPECT_RELATIVE [] go together; set both, or neither",
        ),
        (
            "DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.5]",
            "SCALES_RELATIVE is [0.08, 1.5]; it must be [low, high] with 0 < low <= high <= 1, or []",
        ),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE [0,1]", "SCALES_RELATIVE is [0, 1]; it must be [low, high] with 0 < low"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08]", "SCALES_RELATIVE is [0.08]; it must be [low, high]"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE ['a','b']", "SCALES_RELATIVE is ['a', 'b']; it must be [low, high]"),
        (
            "DATA.TRAIN_JITTER_ASPECT_RELATIVE [1.3333,0.75]",
            "ASPECT_RELATIVE is [1.3333, 0.75]; it must be [low, high] with 0 < low <= high, or []",
        ),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(None, overrides.split())


def test_processes_that_share_clips_are_one_share_of_a_batch():
    load_config(None, [*SHARED_CLIPS.split(), "TRAIN.BATCH_SIZE", "2", "TEST.BATCH_SIZE", "2"])


def test_views_of_a_video_make_a_batch_even():
    load_config(None, ["MIXUP.ENABLE", "True", "NUM_GPUS", "8", "AUG.NUM_SAMPLE", "2"])


def test_differences_name_the_key_and_both_values():
    before = load_config(None, ["SOLVER.BASE_LR", "0.1", "ATTENTION.JOINT", "fibottention"]).dump()
    now = load_config(None, ["ATTENTION.JOINT", "fibottention"])
    assert differences(before, now) == ["SOLVER.BASE_LR 0.1 -> 0.005"]
    assert differences(before, now, ["ATTENTION"]) == []


def keys_read(source):
    """The keys that code reads: ``cfg.TRAIN.ENABLE``, or ``options.DEPTH`` after ``options = cfg.TIMESFORMER``."""
    nodes = list(ast.walk(ast.parse(source)))
    sections = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(node.targets[0].elts, node.value.elts, strict=True)
            named = {ast.unparse(name): ast.unparse(value) for name, value in pairs}
            sections |= {name: value for name, value in named.items() if value.startswith("cfg.")}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            chain = [*sections.get(first, first).split("."), *rest]
            if chain[0] == "cfg":
                yield ".".join(chain[1:])


def test_keys_read_sees_through_a_sections_short_name():
    source = "def f(cfg):\n    a, b = cfg.DATA, cfg.AUG\n    return a.MEAN, b.ENABLE, cfg.RNG_SEED, other.DATA.STD"
    assert {"DATA.MEAN", "AUG.ENABLE", "RNG_SEED"} == set(keys_read(source)) - {"DATA", "AUG"}


def test_every_key_is_read_somewhere():
    files = [*(ROOT / "videofib").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    users = [file for file in files if file.name not in ("defaults.py", "checks.py")]
    read = {key for file in users for key in keys_read(file.read_text(encoding="utf-8"))}
    unread = [key for key in known_keys() if key not in read]
    assert not unread, f"nothing reads {unread}"


@pytest.mark.parametrize("text", ["MODEL: [1", "just words", "- 1"])
def test_a_checkpoint_whose_config_cannot_be_read_is_told_in_one_line(text):
    with pytest.raises(ConfigError, match=r"^the config kept in the checkpoint cannot be read: .*$"):
        differences(text, load_config())
