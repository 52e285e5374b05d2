"""Values that contradict each other, each refused in one line by the first rule that they break."""

import re

import pytest

from videofib.config import ConfigError, load_config
from videofib.config.rules import RULES

CONTEXT_PARALLEL = "NUM_GPUS 4 TRAIN.CONTEXT_PARALLEL 2"
BROKEN = [  # overrides and the message, in the order of the rules
    ("SHARD_ID 1", "SHARD_ID 1 must be below NUM_SHARDS 1; it counts from 0"),
    ("NUM_GPUS 4 TRAIN.CONTEXT_PARALLEL 3", "TRAIN.CONTEXT_PARALLEL 3 must divide NUM_GPUS x NUM_SHARDS = 4"),
    ("NUM_GPUS 2 TRAIN.CONTEXT_PARALLEL 4", "TRAIN.CONTEXT_PARALLEL 4 must divide NUM_GPUS x NUM_SHARDS = 2"),
    (
        "NUM_GPUS 3",
        "TRAIN.BATCH_SIZE 8 is the total over processes and must divide by NUM_GPUS x NUM_SHARDS = 3",
    ),
    (
        f"{CONTEXT_PARALLEL} TRAIN.BATCH_SIZE 3",
        "TRAIN.BATCH_SIZE 3 is the total over processes and must divide by "
        "NUM_GPUS x NUM_SHARDS / TRAIN.CONTEXT_PARALLEL = 2",
    ),
    (
        "NUM_GPUS 2 NUM_SHARDS 2 TEST.BATCH_SIZE 6",
        "TEST.BATCH_SIZE 6 is the total over processes and must divide by NUM_GPUS x NUM_SHARDS = 4",
    ),
    ("GLOBAL_BATCH_SIZE 12", "GLOBAL_BATCH_SIZE 12 must be a multiple of TRAIN.BATCH_SIZE 8"),
    ("GLOBAL_BATCH_SIZE 4", "GLOBAL_BATCH_SIZE 4 must be a multiple of TRAIN.BATCH_SIZE 8"),
    ("TRAIN.SHARDED_CHECKPOINTS True", "TRAIN.SHARDED_CHECKPOINTS needs sharded weights; set TRAIN.STRATEGY fsdp"),
    (
        "MIXUP.ENABLE True NUM_GPUS 8",
        "MIXUP.ENABLE pairs the clips of each process, so TRAIN.BATCH_SIZE 8 over 8 process(es), times AUG.NUM_SAMPLE "
        "1, must be even; it is 1",
    ),
    (
        f"{CONTEXT_PARALLEL} MIXUP.ENABLE True TRAIN.BATCH_SIZE 2",
        "MIXUP.ENABLE pairs the clips of each process, so TRAIN.BATCH_SIZE 2 over 2 process(es), times AUG.NUM_SAMPLE "
        "1, must be even; it is 1",
    ),
    (
        "MIXUP.ENABLE True MIXUP.ALPHA 0 MIXUP.CUTMIX_ALPHA 0",
        "MIXUP.ENABLE needs MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA above 0",
    ),
    (
        "MODEL.LOSS_FUNC bce_logit MIXUP.ENABLE True",
        "MIXUP.ENABLE mixes videos of one class each, MODEL.LOSS_FUNC bce_logit is for several; set MIXUP.ENABLE False",
    ),
    (
        "MODEL.LOSS_FUNC bce_logit DATA_LOADER.SAMPLER class_balanced",
        "DATA_LOADER.SAMPLER class_balanced needs videos of one class each, MODEL.LOSS_FUNC bce_logit is for several; "
        "set DATA_LOADER.SAMPLER shuffle",
    ),
    (
        "MODEL.LOSS_FUNC bce_logit MIXUP.LABEL_SMOOTH_VALUE 0.1",
        "MODEL.LOSS_FUNC bce_logit has no label smoothing; set MIXUP.LABEL_SMOOTH_VALUE 0",
    ),
    (
        "DISTILL.CONFIG a DISTILL.CHECKPOINT b MODEL.LOSS_FUNC bce_logit",
        "DISTILL compares scores of one class a video; set MODEL.LOSS_FUNC cross_entropy",
    ),
    (
        "CHECKPOINT.METRIC mAP",
        "validation with MODEL.LOSS_FUNC cross_entropy has no CHECKPOINT.METRIC mAP; set CHECKPOINT.METRIC auto",
    ),
    (
        "CHECKPOINT.METRIC top1_acc MODEL.LOSS_FUNC bce_logit",
        "validation with MODEL.LOSS_FUNC bce_logit has no CHECKPOINT.METRIC top1_acc; set CHECKPOINT.METRIC auto",
    ),
    (
        "DISTILL.CONFIG a.yaml",
        "DISTILL.CONFIG and DISTILL.CHECKPOINT, a teacher and its weights, go together; set both",
    ),
    (
        "DISTILL.CHECKPOINT a.pyth",
        "DISTILL.CONFIG and DISTILL.CHECKPOINT, a teacher and its weights, go together; set both",
    ),
    (
        "TIMESFORMER.ATTENTION_TYPE joint_space_time ATTENTION.JOINT fibottention FIBOTTENTION.W_MIN 4 "
        "ATTENTION.OPTIONS.fibottention.w_min 3",
        "ATTENTION.OPTIONS and a key of FIBOTTENTION both set w_min; set it in one of them",
    ),
    (
        "TRAIN.CHECKPOINT_PART teacher",
        "TRAIN.CHECKPOINT_PART teacher is a part of no file; set TRAIN.CHECKPOINT_FILE_PATH",
    ),
    (
        "DISTILL.CHECKPOINT_PART teacher",
        "DISTILL.CHECKPOINT_PART teacher is a part of no file; set DISTILL.CHECKPOINT",
    ),
    (
        "TRAIN.FREEZE ['a'] TRAIN.LINEAR_PROBE True",
        "TRAIN.LINEAR_PROBE freezes all but the classifier already; set TRAIN.FREEZE []",
    ),
    (
        "MULTIGRID.LONG_CYCLE True MODEL.MODEL_NAME X3D_S",
        "MULTIGRID.LONG_CYCLE needs a model that takes clips of any size, and X3D_S does not; set MULTIGRID.LONG_CYCLE "
        "False",
    ),
    (
        "MULTIGRID.LONG_CYCLE True DISTILL.CONFIG a DISTILL.CHECKPOINT b",
        "the teacher of DISTILL takes clips of one size; set MULTIGRID.LONG_CYCLE False",
    ),
    (
        "SLIMMING.AFTER [1] SLIMMING.TEACHER a DISTILL.CONFIG b DISTILL.CHECKPOINT c",
        "a model learns from one teacher: set SLIMMING.TEACHER '' or DISTILL.CONFIG ''",
    ),
    (
        "SLIMMING.AFTER [1] SLIMMING.TEACHER a MULTIGRID.LONG_CYCLE True",
        "SLIMMING.TEACHER recovers as many tokens as clips of one size have; set MULTIGRID.LONG_CYCLE False",
    ),
    (
        "SLIMMING.AFTER [1] SLIMMING.TEACHER a MODEL.LOSS_FUNC bce_logit",
        "SLIMMING.TEACHER compares scores of one class a video; set MODEL.LOSS_FUNC cross_entropy",
    ),
    (
        "DATA.SAMPLING uniform TEST.VIEW_STARTS published TEST.NUM_ENSEMBLE_VIEWS 2",
        "TEST.VIEW_STARTS published takes the same frames of a video in each of TEST.NUM_ENSEMBLE_VIEWS 2 clips where "
        "DATA.SAMPLING is uniform; set TEST.NUM_ENSEMBLE_VIEWS 1",
    ),
    (
        "SOLVER.MOMENTUM 0",
        "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0; set it, or SOLVER.NESTEROV False",
    ),
    (
        "SOLVER.LR_POLICY one_cycle",
        "SOLVER.LR_POLICY one_cycle rises for SOLVER.WARMUP_EPOCHS, which must be above 0; a third of SOLVER.MAX_EPOCH "
        "15 is usual",
    ),
    (
        "SOLVER.STEPS [0,3]",
        "SOLVER.STEPS [0.0, 3.0] must start at 0 and have as many entries as SOLVER.LRS [1.0, 0.1, 0.01]",
    ),
    (
        "SOLVER.STEPS [1,2,3]",
        "SOLVER.STEPS [1.0, 2.0, 3.0] must start at 0 and have as many entries as SOLVER.LRS [1.0, 0.1, 0.01]",
    ),
    (
        "SOLVER.STEPS [0,11] SOLVER.LRS [0,1] SOLVER.MAX_EPOCH 11",
        "SOLVER.LRS [0.0, 1.0] must be above 0 in one of the stages of SOLVER.STEPS [0.0, 11.0] that begin before "
        "SOLVER.MAX_EPOCH 11; now the learning rate is 0 throughout",
    ),
    (
        "TRAIN.CLASS_WEIGHTS listed TRAIN.LISTED_WEIGHTS [1,2,3]",
        "TRAIN.CLASS_WEIGHTS listed needs a weight for each class: TRAIN.LISTED_WEIGHTS has 3, and "
        "MODEL.NUM_CLASSES is 400",
    ),
    (
        "TRAIN.CLASS_WEIGHTS balanced DATA_LOADER.SAMPLER class_balanced",
        "DATA_LOADER.SAMPLER class_balanced draws each class equally often already, and TRAIN.CLASS_WEIGHTS balanced "
        "would correct that once more; set the first to shuffle, or the other to none",
    ),
    (
        "DATA.TRAIN_CROP_SIZE 300",
        "DATA.TRAIN_JITTER_SCALES [256, 320] must not be below DATA.TRAIN_CROP_SIZE 300",
    ),
    (
        "DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.0]",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08, 1.0] and DATA.TRAIN_JITTER_ASPECT_RELATIVE [] go together; set both, "
        "or neither",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), BROKEN)
def test_contradictions_are_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides.split())
    assert str(error.value) == message


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.message[:40])
def test_every_rule_is_broken_above(rule):
    pattern = ".*".join(map(re.escape, re.split(r"\{[^}]*\}", rule.message)))
    assert any(re.fullmatch(pattern, message) for _, message in BROKEN)


@pytest.mark.parametrize(
    "overrides",
    [
        f"{CONTEXT_PARALLEL} TRAIN.BATCH_SIZE 2 TEST.BATCH_SIZE 2",  # two groups of processes
        "MIXUP.ENABLE True NUM_GPUS 8 AUG.NUM_SAMPLE 2",  # the views of a video make a batch even
        "MIXUP.ENABLE True MIXUP.ALPHA 0",
        "GLOBAL_BATCH_SIZE 8",
        "TRAIN.SHARDED_CHECKPOINTS True TRAIN.STRATEGY fsdp",
        "CHECKPOINT.METRIC none MODEL.LOSS_FUNC bce_logit",
        "CHECKPOINT.METRIC mAP MODEL.LOSS_FUNC bce_logit",
        "SOLVER.LR_POLICY one_cycle SOLVER.WARMUP_EPOCHS 5",
        "SOLVER.LR_POLICY one_cycle SOLVER.WARMUP_EPOCHS 15",  # which is shortened
        "SOLVER.STEPS [0,3] SOLVER.LRS [1,0.1]",
        "TEST.VIEW_STARTS published",
        "DATA.SAMPLING uniform TEST.VIEW_STARTS published TEST.NUM_ENSEMBLE_VIEWS 1",
        "SOLVER.STEPS [0,11] SOLVER.LRS [0,1]",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.0] DATA.TRAIN_JITTER_ASPECT_RELATIVE [0.75,1.3333]",
    ],
)
def test_values_that_agree_pass(overrides):
    load_config(None, overrides.split())
