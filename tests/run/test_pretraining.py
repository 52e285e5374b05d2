"""videofib pretrain: from a list without labels to weights that training starts from."""

import shutil

import pytest
import torch

from tests.experiment import newest, run, stats, weights
from videofib.checkpoint.file import load_checkpoint
from videofib.config import load_config
from videofib.models.pretrained.load import load_pretrained
from videofib.run.load import load
from videofib.run.models import build_model

MAE = ["PRETRAIN.METHOD", "mae", "PRETRAIN.MASK_RATIO", "0.5", "PRETRAIN.DECODER_DEPTH", "1"]
HEADS = ["PRETRAIN.PROTOTYPES", "16", "PRETRAIN.HEAD_HIDDEN_DIM", "16", "PRETRAIN.HEAD_DIM", "8",
         "PRETRAIN.LOCAL_VIEWS", "2", "PRETRAIN.LOCAL_CROP_SIZE", "16", "AUG.NUM_SAMPLE", "2"]  # fmt: skip
DINO = ["PRETRAIN.METHOD", "dino", *HEADS]
SELFPATCH = ["PRETRAIN.METHOD", "selfpatch", *HEADS, "PRETRAIN.PATCH_PROTOTYPES", "12"]
METHODS = {"mae": MAE, "dino": DINO, "selfpatch": SELFPATCH}
ADAMW = ["SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", "0.002", "TIMESFORMER.POOLING", "mean"]


def pretrain(experiment, out, method, *overrides):
    return run(experiment, out, *METHODS[method], *ADAMW, *overrides, stages=["pretrain"])


def logged(folder):
    return (folder / "log.txt").read_text()


@pytest.fixture(scope="module", params=METHODS)
def pretrained(request, experiment, tmp_path_factory):
    """(method, the folder of a finished run on a list without labels)."""
    data = tmp_path_factory.mktemp("unlabelled")
    lines = (experiment / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join(line.rpartition(" ")[0] for line in lines) + "\n")
    where = ["DATA.PATH_TO_DATA_DIR", data, "DATA.PATH_PREFIX", experiment]
    return request.param, pretrain(experiment, tmp_path_factory.mktemp(request.param), request.param, *where)


def test_a_list_without_labels_is_enough(pretrained):
    method, out = pretrained
    epochs = stats(out, "train_epoch")
    assert len(epochs) == 2
    assert all(line["loss"] > 0 and "clip_top1_acc" not in line for line in epochs)
    assert all(("patch_loss" in line) == (method == "selfpatch") for line in epochs)
    assert (out / "report.html").is_file()
    assert load_checkpoint(newest(out))["classes"] is None


def test_labels_of_a_list_are_not_used(experiment, pretrained, tmp_path):
    method, out = pretrained
    assert torch.equal(weights(pretrain(experiment, tmp_path, method)), weights(out))


def test_the_weights_flow_into_training_by_name(experiment, pretrained, tmp_path):
    method, out = pretrained
    tuned = run(
        experiment, tmp_path, *ADAMW, "TRAIN.CHECKPOINT_FILE_PATH", newest(out), "SOLVER.MAX_EPOCH", "1",
        "SOLVER.WARMUP_EPOCHS", "0", stages=["train"],
    )  # fmt: skip
    log = logged(tuned)
    assert "newly initialised: head.weight: 3x24, initial values kept" in log
    unused = {"mae": "unused: decoder.mask_token: ", "dino": "unused: class_head.", "selfpatch": "unused: patch_head."}
    assert unused[method] in log
    own = build_model(load_config(experiment / "config.yaml", ADAMW))
    load_pretrained(own, newest(out))
    state = load_checkpoint(newest(out))["model_state"]
    prefix = "encoder." if method == "mae" else "teacher_ema.encoder."
    for name, value in own.state_dict().items():
        assert name.startswith("head.") or torch.equal(value, state[prefix + name]), name
    if method != "mae":
        assert "not loaded: model_state.student.encoder" in log
        load_pretrained(own, newest(out), part="student")
        assert torch.equal(own.blocks[0].attn.qkv.weight, state["student.encoder.blocks.0.attn.qkv.weight"])


def test_pretraining_may_start_from_weights(experiment, trained, tmp_path):
    out = pretrain(experiment, tmp_path, "mae", "TRAIN.CHECKPOINT_FILE_PATH", newest(trained))
    assert "weights from" in logged(out)


def test_a_run_that_was_stopped_reaches_the_same_weights(experiment, pretrained, tmp_path):
    method, out = pretrained
    shutil.copytree(out, tmp_path / "run")
    newest(tmp_path / "run").unlink()
    pretrain(experiment, tmp_path / "run", method)
    assert torch.equal(weights(tmp_path / "run"), weights(out))
    assert "all 2 epochs are done, so there is nothing to pre-train" in logged(
        pretrain(experiment, tmp_path / "run", method)
    )


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_batches_and_mixed_precision(experiment, tmp_path, method):
    out = pretrain(
        experiment, tmp_path, method, "GLOBAL_BATCH_SIZE", "8", "TRAIN.MIXED_PRECISION", "True",
        "TIMESFORMER.GRADIENT_CHECKPOINTING", "True", "SOLVER.CLIP_GRAD_L2NORM", "1",
    )  # fmt: skip
    lines = stats(out, "train_epoch")
    assert [line["skipped_steps"] for line in lines] == [0, 0]


def test_accumulation_gives_the_steps_of_larger_batches(experiment, tmp_path):
    """With all patches but a fixed part masked, the loss of 4 and 4 clips is that of 8: only the masks differ."""
    large = pretrain(experiment, tmp_path / "large", "mae", "TRAIN.BATCH_SIZE", "12", "SOLVER.MAX_EPOCH", "1")
    small = pretrain(
        experiment, tmp_path / "small", "mae", "TRAIN.BATCH_SIZE", "4", "GLOBAL_BATCH_SIZE", "12", "SOLVER.MAX_EPOCH",
        "1",
    )  # fmt: skip
    torch.testing.assert_close(weights(small, 1), weights(large, 1), rtol=0, atol=5e-3)


SPACE_FIBOTTENTION = "ATTENTION.JOINT dense ATTENTION.SPACE fibottention"
REFUSED = {
    "MIXUP.ENABLE True": "MIXUP.ENABLE mixes labels",
    "TRAIN.EMA_DECAY 0.9": "TRAIN.EMA_DECAY averages what is validated, and pre-training validates nothing",
    "TRAIN.CLASS_WEIGHTS balanced": "TRAIN.CLASS_WEIGHTS needs labels",
    "DATA_LOADER.SAMPLER class_balanced": "DATA_LOADER.SAMPLER class_balanced needs labels",
    "TRAIN.LINEAR_PROBE True": "pre-training trains all of the encoder",
    "TRAIN.COMPILE True": "pre-training is not compiled",
    "MULTIGRID.LONG_CYCLE True": "pre-training has clips of one size",
    f"TIMESFORMER.ATTENTION_TYPE divided_space_time {SPACE_FIBOTTENTION}": "PRETRAIN.METHOD mae: a masked "
    "autoencoder's encoder sees the visible tokens alone, and attention_type='divided_space_time' needs all tokens",
    "PRETRAIN.MASK_RATIO 0.99": "PRETRAIN.METHOD mae: mask_ratio=0.99 masks 4 of the 4 patches of a frame",
    "PRETRAIN.DECODER_DIM 13 PRETRAIN.DECODER_HEADS 2": "decoder_dim=13, decoder_num_heads=2",
    "DATA.NUM_FRAMES 3 TIMESFORMER.TUBELET_SIZE 2": "clips of 3 frames do not divide into tubelets of 2 frames",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_pretrained_is_refused_in_a_line(experiment, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        pretrain(experiment, tmp_path, "mae", *words.split())
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert REFUSED[words] in errors[0]
    assert not (tmp_path / "checkpoints").exists()


def test_a_method_must_be_chosen(experiment, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(experiment, tmp_path, stages=["pretrain"])
    assert "error: PRETRAIN.METHOD none: nothing to learn without labels; set it to mae" in capsys.readouterr().err


REFUSED_TEACHERS = {
    "AUG.NUM_SAMPLE 1": "PRETRAIN.METHOD selfpatch compares two clips of each video; set AUG.NUM_SAMPLE 2 (it is 1)",
    "TRAIN.STRATEGY fsdp": "the teacher of PRETRAIN.METHOD selfpatch is not sharded; set TRAIN.STRATEGY ddp",
    "PRETRAIN.LOCAL_CROP_SIZE 24": "frames of 24x24 pixels do not divide into patches of 16x16",
    "PRETRAIN.LOCAL_FRAMES 3": "views of 3 frames cannot be cut from clips of 2",
    "PRETRAIN.TOP_K 9": "top_k=9: space has 8; space_time has 26",
    f"TIMESFORMER.ATTENTION_TYPE space_only {SPACE_FIBOTTENTION}": "attention_type='space_only' has none",
    "TIMESFORMER.POOLING class_attention": "pooling='class_attention' has none",
}


@pytest.mark.parametrize("words", REFUSED_TEACHERS)
def test_what_a_teacher_cannot_do_is_refused_in_a_line(experiment, tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        pretrain(experiment, tmp_path, "selfpatch", *words.split())
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert REFUSED_TEACHERS[words] in error


def test_keys_that_pretraining_does_not_read_are_named(experiment, tmp_path):
    log = logged(pretrain(experiment, tmp_path, "mae", "TEST.BATCH_SIZE", "4", "TRAIN.EVAL_PERIOD", "2"))
    assert "no effect here: TEST.BATCH_SIZE, since this run does not test" in log
    assert "no effect here: TRAIN.EVAL_PERIOD, since this run does not train from labels" in log


def test_a_class_token_that_does_not_learn_is_reported(experiment, tmp_path):
    log = logged(pretrain(experiment, tmp_path, "mae", "TIMESFORMER.POOLING", "class_token", "SOLVER.MAX_EPOCH", "1"))
    assert "PRETRAIN.METHOD mae learns what patches mean, and not what the class token does at the end" in log


def test_a_pretrained_encoder_names_no_classes(pretrained):
    _, out = pretrained
    with pytest.raises(Exception, match=r"is of pre-training, which has no classifier.*TRAIN.CHECKPOINT_FILE_PATH"):
        load(out)
