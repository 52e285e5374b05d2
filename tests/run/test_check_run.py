"""Everything that a run needs is checked before its first batch, and all mistakes are reported together."""

import shutil

import pytest
import torch

from tests.experiment import newest, run
from videofib.config import ConfigError, load_config
from videofib.run.preflight import check_model


@pytest.fixture
def data(experiment, tmp_path):
    """A copy of the experiment whose lists a test may damage."""
    return shutil.copytree(experiment, tmp_path / "data")


def errors_of(data, out, capfd, *overrides, stages=None):
    """The lines of a run that must be refused before it trains."""
    with pytest.raises(SystemExit) as end:
        run(data, out, "DATA.PATH_TO_DATA_DIR", data, *overrides, stages=stages)
    assert end.value.code == 2
    assert not (out / "checkpoints").exists()
    assert not (out / "config.yaml").exists()
    captured = capfd.readouterr()
    lines = (captured.out + captured.err).splitlines()
    assert not any("Traceback" in line for line in lines)
    return [line.partition("error: ")[2] for line in lines if "error: " in line]


def test_no_test_list(data, tmp_path, capfd):
    (data / "test.csv").unlink()
    (error,) = errors_of(data, tmp_path / "out", capfd)
    assert "test" in error


def test_labels_out_of_range_and_missing_videos_of_every_list_are_reported_together(data, tmp_path, capfd):
    (data / "train.csv").write_text("".join(f"train {i}.mp4 {i % 3 + 1}\n" for i in range(12)))
    (data / "val.csv").write_text("gone.mp4 0\n")
    (data / "test.csv").write_text("test 0.mp4 9\n")
    train, val, test = errors_of(data, tmp_path / "out", capfd)
    assert train.startswith("the train split has label 3")
    assert val.startswith("none of the first 1 videos of the val split exist")
    assert test.startswith("the test split has label 9")


def test_labels_that_run_from_1_are_noticed(data, tmp_path, capfd):
    (data / "train.csv").write_text("".join(f"train {i}.mp4 {i % 3 + 1}\n" for i in range(12)))
    (data / "val.csv").write_text("".join(f"val {i}.mp4 {label}\n" for i, label in enumerate([0, 3, 1])))
    train, val = errors_of(data, tmp_path / "out", capfd, stages=["train"])
    assert train == (
        "the train split has label 3 (train 2.mp4), but those of 3 classes run from 0 to 2; here labels run from 1 to "
        "3: subtract 1 from each, in all lists"
    )
    assert val == "the val split has label 3 (val 1.mp4), so MODEL.NUM_CLASSES must be at least 4; it is 3"


def test_missing_videos_are_reported_before_wrong_labels_and_instead_of_too_few_for_a_batch(data, tmp_path, capfd):
    (data / "train.csv").write_text("gone/a.mp4 0\ngone/b.mp4 5\n")
    missing, label = errors_of(data, tmp_path / "out", capfd, stages=["train"])
    assert missing.startswith(f"none of the first 2 videos of the train split exist, such as {data}/gone/a.mp4; ")
    assert label.startswith("the train split has label 5 (gone/b.mp4)")
    (data / "train.csv").write_text("train 0.mp4 0\ntrain 1.mp4 1\n")
    (few,) = errors_of(data, tmp_path / "out", capfd, stages=["train"])
    assert few == f"the train split in {data} has 2 videos, fewer than one batch; TRAIN.BATCH_SIZE is 4"


def test_paths_of_another_system_and_a_prefix_that_is_wrong_are_named(data, tmp_path, capfd):
    (data / "train.csv").write_text("C:\\videos\\a.mp4 0\n")
    train, val = errors_of(data, tmp_path / "out", capfd, "DATA.PATH_PREFIX", "/nowhere", stages=["train"])
    assert "/nowhere/C:\\videos\\a.mp4; it has backslashes, which separate no folders here: write / instead; " in train
    assert val.endswith("set DATA.PATH_PREFIX to the folder its paths start from; it is /nowhere")


def test_a_data_folder_that_is_not_there_is_reported_once_for_all_lists(data, tmp_path, capfd):
    (error,) = errors_of(data, tmp_path / "out", capfd, "DATA.PATH_TO_DATA_DIR", data / "gone")
    assert error == f"no data folder at {data / 'gone'}; name it as DATA.PATH_TO_DATA_DIR"


@pytest.mark.parametrize("written", ["\t", r"\t"])
def test_lists_separated_by_tabs(data, tmp_path, capfd, written):
    r"""A shell passes ``\t`` on as a backslash and a t."""
    (data / "train.csv").write_text("".join(f"train {i}.mp4\t{i % 3}\n" for i in range(12)))
    train, val = errors_of(data, tmp_path / "out", capfd, "DATA.PATH_LABEL_SEPARATOR", ",", stages=["train"])
    assert r"here '\t' seems to separate path and label" in train
    assert "here ' ' seems to separate path and label" in val
    (error,) = errors_of(data, tmp_path / "out", capfd, "DATA.PATH_LABEL_SEPARATOR", written, stages=["train"])
    assert r"val.csv:1: expected 'path\tlabel', got 'val 0.mp4 0'" in error


@pytest.mark.parametrize("damage", ["missing", "text", "classes", "shape"])
def test_weights_to_test_that_cannot_be_used(data, trained, tmp_path, capfd, damage):
    path, overrides = tmp_path / "x.pyth", []
    if damage == "text":
        path.write_text("no weights\n" * 50)
    elif damage != "missing":
        content = torch.load(newest(trained), weights_only=False)
        if damage == "classes":
            content["class_names"] = ["a", "b"]
            content["model_state"]["head.weight"] = torch.zeros(2, 24)
            content["model_state"]["head.bias"] = torch.zeros(2)
        else:
            overrides = ["TIMESFORMER.DEPTH", "2"]
        torch.save(content, path)
    (error,) = errors_of(data, tmp_path / "out", capfd, "TEST.CHECKPOINT_FILE_PATH", path, *overrides)
    assert error.startswith("TEST.CHECKPOINT_FILE_PATH: ")
    assert "x.pyth" in error


def test_a_best_checkpoint_that_no_training_will_keep(data, tmp_path, capfd):
    words = ["TEST.CHECKPOINT_FILE_PATH", "best", "CHECKPOINT.METRIC", "none"]
    (error,) = errors_of(data, tmp_path / "out", capfd, *words)
    assert error.endswith("set CHECKPOINT.METRIC auto")


def test_a_checkpoint_that_this_run_will_write_is_tested(experiment, tmp_path):
    out = tmp_path / "out"
    run(experiment, out, "TEST.CHECKPOINT_FILE_PATH", newest(out, 1))
    assert (out / "test_results.json").exists()


@pytest.mark.parametrize("stages", [["train"], ["test"], None])
def test_crops_that_are_no_multiple_of_the_patch(data, tmp_path, capfd, stages):
    errors = errors_of(data, tmp_path / "out", capfd, "DATA.TEST_CROP_SIZE", "40", stages=stages)
    assert errors == [
        "DATA.TEST_CROP_SIZE 40 and DATA.NUM_FRAMES 2: TimeSformer does not take these clips: frames of 40x40 pixels "
        "do not divide into patches of 16x16"
    ]


def faults(*overrides, stages=("train", "test")):
    with pytest.raises(ConfigError) as error:
        check_model(load_config(None, overrides), stages)
    return error.value.faults


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["ATTENTION.SPACE", "fibottention", "ATTENTION.BACKEND", "gather"],
        ["TIMESFORMER.ATTENTION_TYPE", "joint_space_time", "ATTENTION.JOINT", "fibottention"],
        ["TIMESFORMER.ATTENTION_TYPE", "space_only", "DATA.TEST_CROP_SIZE", "256"],
        ["DATA.NUM_FRAMES", "96", "TIMESFORMER.TUBELET_SIZE", "2", "MULTIGRID.LONG_CYCLE", "True"],
        ["MODEL.MODEL_NAME", "X3D_S", "DATA.NUM_FRAMES", "13", "DATA.TEST_CROP_SIZE", "182"],
        ["MODEL.MODEL_NAME", "SlowFast_R50", "DATA.NUM_FRAMES", "32", "DATA.TEST_CROP_SIZE", "256"],
    ],
)
def test_models_that_take_their_clips(overrides):
    check_model(load_config(None, overrides), ("train", "test"))


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["DATA.TRAIN_CROP_SIZE", "230"], ["230"]),
        (["DATA.TEST_CROP_SIZE", "225"], ["DATA.TEST_CROP_SIZE 225"]),
        (["DATA.NUM_FRAMES", "7", "TIMESFORMER.TUBELET_SIZE", "2"], ["7"]),
        (["MODEL.MODEL_NAME", "X3D_S", "DATA.TEST_CROP_SIZE", "16"], ["DATA.TEST_CROP_SIZE 16"]),
        (["MODEL.MODEL_NAME", "SlowFast_R50", "DATA.NUM_FRAMES", "6"], ["T"]),
        (["MODEL.MODEL_NAME", "MViT_B", "DATA.TEST_CROP_SIZE", "256"], ["the same; they are 224 and 256"]),
    ],
)
def test_models_that_do_not(overrides, parts):
    found = faults(*overrides)
    assert len(found) == len(parts)
    for fault, part in zip(found, parts, strict=True):
        assert part in fault
        assert "\n" not in fault


@pytest.mark.skipif(torch.cuda.is_available(), reason="triton runs here")
def test_a_backend_of_another_device_is_refused_before_the_model_is_built():
    (fault,) = faults("ATTENTION.SPACE", "fibottention", "ATTENTION.BACKEND", "triton")
    assert fault.startswith("ATTENTION.BACKEND triton: backend 'triton' needs cuda tensors, got them on cpu")
