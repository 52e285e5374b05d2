"""Time and memory of complete models, each in a process of its own."""

import json

import pytest

from videofib.bench import model, model_speed
from videofib.cli import main
from videofib.models.recompute import RECOMPUTE
from videofib.models.timesformer import POOLINGS

SMALL = ["--size", "32", "--width", "24", "--depth", "1", "--heads", "3", "--repeats", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("train", [[], ["--train", "--checkpointing"]], ids=["inference", "training"])
def test_command_writes_a_table_a_file_and_a_picture(train, tmp_path, capsys):
    options = [*SMALL, *train, "--frames", "2", "3", "--attention", "joint", "joint_fibottention+skip"]
    options += ["--depth", "3", "--skipped", "1"]
    files = ["--json", tmp_path / "figures.json", "--plot", tmp_path / "figures.png"]
    main(["bench", "model", *options, *map(str, files)])
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["frames"], row["tokens"]) for row in rows] == [(2, 8), (2, 8), (3, 12), (3, 12)]
    assert [row["ratio"] for row in rows[::2]] == [1, 1]
    assert all(row["seconds"] > 0 and 0.05 < row["peak_gib"] < 4 for row in rows)  # torch alone holds some 0.3 GiB
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_a_process_that_dies_is_named(capfd):
    options = [*SMALL, "--frames", "2", "--attention", "joint", "--width", "25"]  # a width that heads do not divide
    with pytest.raises(SystemExit, match="joint, 2 frames: its process died"):
        main(["bench", "model", *options])
    said = capfd.readouterr().err
    assert "embed_dim" in said or "dim=25" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("joint", dict(attention_type="joint_space_time", joint_attention="dense")),
        ("joint_fibottention", dict(attention_type="joint_space_time", joint_attention="fibottention")),
        ("divided", dict(attention_type="divided_space_time", space_attention="dense", time_attention="dense")),
        ("space_only_fibottention", dict(attention_type="space_only", space_attention="fibottention")),
    ],
)
def test_a_name_is_a_type_and_a_mixer(name, expected):
    assert model_speed.attention(name) == expected
    assert model_speed.attention(f"{name}+skip", [1, 2]) == {**expected, "skip_attention": (1, 2)}


@pytest.mark.parametrize(
    ("name", "message"), [("joint_fibotention", "did you mean 'fib"), ("dense", "begins with none")]
)
def test_other_names_are_refused_in_a_line(name, message):
    with pytest.raises(SystemExit, match=message):
        main(["bench", "model", "--attention", name])


def test_the_choices_are_those_of_the_code():
    assert model._RECOMPUTE == RECOMPUTE
    assert set(model._POOLINGS) <= set(POOLINGS)
