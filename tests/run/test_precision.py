"""In which precision a test and a saved model compute, and that files, reports and comparisons say so."""

import json
import shutil

import pytest
import torch

from tests.commands import call
from tests.experiment import newest, results, run
from videofib.commands.features import main as features
from videofib.commands.predict import main as predict
from videofib.config import ConfigError, load_config
from videofib.metrics.average import average
from videofib.metrics.features import read_features
from videofib.metrics.scores import SCORES_NAME, ScoresError, read_scores, write_scores
from videofib.report.comparison import Comparison
from videofib.run import testing
from videofib.run.load import load
from videofib.run.preflight import choose_amp_dtype

BF16 = ("TEST.MIXED_PRECISION", "True")
FP16 = (*BF16, "TEST.MIXED_PRECISION_DTYPE", "fp16")


@pytest.fixture(scope="module")
def rounded(experiment, trained, tmp_path_factory):
    """A test of the trained run in bf16."""
    out = tmp_path_factory.mktemp("rounded") / "bf16"
    return run(experiment, out, *BF16, "TEST.CHECKPOINT_FILE_PATH", newest(trained), stages=["test"])


def test_a_test_in_bf16_is_near_and_says_so_everywhere(trained, rounded, tmp_path):
    assert [results(folder)["precision"] for folder in (trained, rounded)] == ["fp32", "bf16"]
    exact, near = (read_scores(folder / SCORES_NAME) for folder in (trained, rounded))
    assert (exact.precision, near.precision) == ("fp32", "bf16")
    assert not torch.equal(exact.scores, near.scores)
    torch.testing.assert_close(near.scores, exact.scores, rtol=0, atol=0.02, equal_nan=True)
    assert results(rounded)["top1_acc"] == results(trained)["top1_acc"]
    assert ", computed in bf16" in (rounded / "report.html").read_text()
    assert ", computed in" not in (trained / "report.html").read_text()
    shutil.copytree(trained, tmp_path / "fp32")
    assert Comparison([tmp_path / "fp32", rounded]).warnings == ["other precisions: fp32 in fp32, bf16 in bf16"]
    assert average([exact, near], [1, 1]).precision == "mixed"
    assert average([near, near], [1, 1]).precision == "bf16"


def test_scores_keep_their_precision_and_those_of_earlier_versions_have_none(trained, rounded, tmp_path):
    from pyarrow import parquet

    def without(source):
        """The file of an earlier version: without the precision, and with the digest that it has."""
        table = parquet.read_table(source)
        about = json.loads(table.schema.metadata[b"videofib"])
        del about["precision"]
        parquet.write_table(table.replace_schema_metadata({"videofib": json.dumps(about)}), tmp_path / "old.parquet")
        return tmp_path / "old.parquet"

    assert read_scores(without(trained / SCORES_NAME)).precision == "fp32"
    with pytest.raises(ScoresError, match="is damaged"):  # another precision than that of the digest
        read_scores(without(rounded / SCORES_NAME))
    scores = read_scores(trained / SCORES_NAME)
    for wrong in ("fp8", ["fp32"], None):
        scores.precision = wrong
        write_scores(tmp_path / "wrong.parquet", scores)
        with pytest.raises(ScoresError, match="has a precision"):
            read_scores(tmp_path / "wrong.parquet")


def test_finished_videos_of_another_precision_are_not_used(experiment, trained, tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt  # once the videos are scored and kept

    words = ["TEST.CHECKPOINT_FILE_PATH", newest(trained), "TEST.SAVE_SECONDS", 0]
    monkeypatch.setattr(testing, "write_results", stopped)
    for options in ((), BF16):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(experiment, tmp_path, *words, *options, stages=["test"])
    assert len(list((tmp_path / "test_parts").iterdir())) == 2
    log = (tmp_path / "log.txt").read_text()
    assert "belongs to a test with other MIXED_PRECISION: it is not used" in log
    assert "resuming: an earlier start" not in log


def test_fp16_needs_a_gpu_and_is_refused_before_training(experiment, trained, tmp_path, capfd):
    with pytest.raises(SystemExit):
        run(experiment, tmp_path, *FP16)
    assert not (tmp_path / "checkpoints").exists()
    said = "error: TEST.MIXED_PRECISION_DTYPE fp16 needs a GPU; set it to bf16, or TEST.MIXED_PRECISION False"
    assert said in "".join(capfd.readouterr())
    assert choose_amp_dtype(load_config(None, [*FP16]), torch.device("cuda"), "TEST") == torch.float16
    with pytest.raises(ConfigError, match="precision fp16 needs a GPU; take another one"):
        load(trained, precision="fp16", device="cpu")
    found = call(predict, [experiment / "test 0.mp4", "--model", trained, "--precision", "fp16", "--device", "cpu"])
    assert found.returncode == 1
    assert found.stderr == "error: precision fp16 needs a GPU; take another one\n"
    with pytest.raises(ConfigError, match="has no effect: it is only read with"):
        load_config(None, ["TEST.MIXED_PRECISION_DTYPE", "fp16"])


@pytest.mark.parametrize("words", [["TEST.COMPILE", "True"]])
def test_a_compiler_that_is_missing_is_reported_first(experiment, trained, tmp_path, capfd, monkeypatch, words):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit):
        run(experiment, tmp_path, *words)
    assert not (tmp_path / "checkpoints").exists()
    said = "error: TEST.COMPILE True needs a C++ compiler, and no-such-compiler is not installed; set it to False"
    assert said in "".join(capfd.readouterr())
    with pytest.raises(ConfigError, match=r"compiling the model needs a C\+\+ compiler, and no-such-compiler"):
        load(trained, compiled=True, device="cpu")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_compiled_tests_predictions_and_features_are_near(experiment, trained, tmp_path):
    words = ["TEST.COMPILE", "True", "TEST.CHECKPOINT_FILE_PATH", newest(trained)]
    out = run(experiment, tmp_path / "out", *words, stages=["test"])
    exact, compiled = (read_scores(folder / SCORES_NAME).scores for folder in (trained, out))
    torch.testing.assert_close(compiled, exact, rtol=0, atol=1e-5, equal_nan=True)

    videos = [str(experiment / f"test {number}.mp4") for number in range(5)]
    plain, fast = load(trained, device="cpu"), load(trained, device="cpu", compiled=True)
    assert fast.model._compiled_call_impl is not None
    for one, other in zip(plain.predict_all(videos), fast.predict_all(videos), strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)
    for kind in ("pooled", "tokens"):
        seen = []
        for name, more in (("plain", []), ("fast", ["--compile"])):
            file = tmp_path / f"{kind} {name}.npz"
            call(features, [*videos, "--model", trained, "--kind", kind, "--out", file, *more], check=True)
            found = read_features(file)
            assert ("compiled" in found.about) == bool(more)
            seen.append(torch.from_numpy(found.values))
        torch.testing.assert_close(*seen, rtol=0, atol=1e-4)
