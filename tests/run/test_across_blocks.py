"""Runs whose blocks use the attention of earlier ones: trained, logged, tested, saved, loaded and profiled."""

import json

import pytest
import torch

import videofib
from tests.experiment import newest, results, run
from videofib.checkpoint.file import CheckpointError
from videofib.commands import profile
from videofib.models.pretrained.export import save_hugging_face, save_official

SKIP = ["TIMESFORMER.DEPTH", 4, "SKIP_ATTENTION.BLOCKS", "[1, 2]"]
LESS = [
    *("TIMESFORMER.DEPTH", 3, "TIMESFORMER.ATTENTION_TYPE", "divided_space_time", "ATTENTION.JOINT", "dense"),
    *("FIBOTTENTION.W_MIN", 5, "LESS_ATTENTION.TIME", 1, "LESS_ATTENTION.SPACE", 2, "LESS_ATTENTION.DIAGONALITY", 0.1),
]


@pytest.fixture(scope="module", params=[SKIP, LESS], ids=["skip", "less"])
def finished(request, experiment, tmp_path_factory):
    return request.param, run(experiment, tmp_path_factory.mktemp("across") / "run", *request.param)


def logged(folder, kind):
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [line for line in lines if line["_type"] == kind]


def test_a_run_trains_tests_and_is_loaded(finished):
    _, folder = finished
    assert results(folder)["num_videos"] == 6
    found = videofib.load(folder)
    settings = found.model.attention_settings()
    assert settings.keys() & {"skip_attention", "less_attention"}
    again = videofib.load(found.save_pretrained(folder.parent / "saved"))
    video = torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.model(video), again.model(video))
        assert found.model.forward_features(video).shape == (2, 24)


def test_the_loss_that_blocks_add_is_logged(finished):
    words, folder = finished
    parts = [line.get("diagonality") for line in logged(folder, "train_epoch")]
    assert len(parts) == 2
    assert all(isinstance(part, float) for part in parts) == (words is LESS)


def test_layouts_that_cannot_hold_such_blocks_refuse(finished, tmp_path):
    model = videofib.load(finished[1]).model
    for write in (
        lambda: save_official(model, tmp_path / "a.pyth"),
        lambda: save_hugging_face(model, tmp_path / "b", remote_code=True),
    ):
        with pytest.raises(CheckpointError, match="attention that blocks take from earlier ones"):
            write()


def test_weights_resume(finished, experiment):
    words, folder = finished
    more = run(experiment, folder.parent / "more", *words, "TRAIN.CHECKPOINT_FILE_PATH", newest(folder))
    assert results(more)["num_videos"] == 6


def test_a_profile_counts_such_blocks(experiment, capsys):
    words = ["--cfg", str(experiment / "config.yaml"), *map(str, SKIP), "ATTENTION.JOINT", "dense"]
    profile.main([*words, "FIBOTTENTION.W_MIN", "5"])
    assert "conv" in capsys.readouterr().out


def test_a_blocks_number_that_the_model_does_not_have_is_refused(experiment, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "run", "SKIP_ATTENTION.BLOCKS", "[1, 2]")
    assert "skips blocks [1, 2], and the model has blocks 0 to 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "run", "LESS_ATTENTION.TIME", 1)
    assert "LESS_ATTENTION.TIME 1 has no effect: it is only read with" in capsys.readouterr().err
