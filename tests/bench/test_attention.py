"""The benchmark's own baselines are right, and its figures come out as a table, a file and a picture."""

import argparse
import json

import pytest
import torch

from videofib.attention import Support, sparse_attention
from videofib.bench import attention_speed as benchmark
from videofib.cli import main


def settings(**changes):
    options = dict(device="cpu", batch=1, heads=2, head_dim=8, dtype="float32", layout="packed", backward=False)
    options |= {"mixers": [], "options": {}}
    return argparse.Namespace(**(options | {"backends": ["cpu"]} | changes))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["sdpa, mask", "flex", "index gather", "gather", "cpu"])
def test_contenders_compute_the_same(name):
    support = Support.fibottention(2, 40)
    qkv = torch.randn(3, 2, 2, 41, 8, generator=torch.Generator().manual_seed(0))
    found = benchmark.contenders(settings(heads=2, backends=["gather", "cpu"]), 40)[name]()(*qkv)
    torch.testing.assert_close(found, sparse_attention(*qkv, support, backend="reference"), atol=1e-5, rtol=1e-5)


def test_slope_of_quadratic_times_is_two():
    rows = [{"contender": "dense", "tokens": n, "ms": 1e-6 * n * n} for n in (10, 1568, 3136, 6272)]
    assert benchmark.slope(rows, "dense") == pytest.approx(2)
    assert benchmark.slope(rows[:2], "dense") is None


def test_peak_memory_sees_what_a_call_allocates():
    found = {name: benchmark.peak_bytes(settings(), 2000, name) for name in ("sdpa, mask", "cpu")}
    if None in found.values():
        pytest.skip("this system does not let a process reset its peak memory")
    output = 2001 * 2 * 8 * 4  # bytes
    assert found["sdpa, mask"] >= 2 * 2001**2  # a mask for each head, a byte for each pair
    assert output <= found["cpu"] < 20 * output


def test_command_writes_a_table_a_file_and_a_picture(tmp_path, capsys):
    options = ["--tokens", "20", "33", "--heads", "2", "--head-dim", "8", "--repeats", "1", "--turn-ms", "1"]
    options += ["--backward", "--no-memory"]
    files = ["--json", tmp_path / "figures.json", "--plot", tmp_path / "figures.png"]
    main(["bench", "attention", *options, *map(str, files)])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["tokens"] for row in figures["rows"]] == [20] * 5 + [33] * 5
    assert {row["contender"] for row in figures["rows"]} == {"sdpa", "sdpa, mask", "index gather", "gather", "cpu"}
    assert all(row["ms"] > 0 and row["ratio_to_sdpa"] > 0 for row in figures["rows"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(figures["rows"])
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_layers_of_any_mixer_stand_beside_dense_attention(tmp_path, capsys):
    options = ["--tokens", "196", "392", "--heads", "2", "--head-dim", "8", "--repeats", "1", "--turn-ms", "1"]
    options += ["--mixers", "fibottention", "--options", '{"fibottention": {"w_min": 2}}', "--backward"]
    main(["bench", "attention", *options, "--json", str(tmp_path / "figures.json")])
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["dense", "fibottention"] * 2
    assert [row["ratio_to_sdpa"] for row in rows[::2]] == [1, 1]
    assert "layers of 2 heads x 8" in capsys.readouterr().out


def test_a_layers_backward_pass_computes_the_gradients_of_its_weights():
    args = settings(mixers=["fibottention"], backward=True)
    layer, (x,) = benchmark.contenders(args, 196)["fibottention"](), benchmark.inputs(args, 196)
    asked = []
    layer.mixer.proj.weight.register_hook(lambda gradient: asked.append(gradient.abs().sum() > 0))
    benchmark.call(layer, [x], torch.ones_like(x), True)
    assert asked == [True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mixers", "fibotention", "--tokens", "196"], "did you mean 'fibottention'?"),
        (["--mixers", "dense", "--tokens", "200"], "--tokens must be multiples of 196"),
        (["--mixers", "fibottention", "--tokens", "196", "--options", '{"fibottention": {"w_mim": 2}}'], "no option"),
        (["--mixers", "dense", "--backends", "cpu"], "--mixers compares layers"),
        (["--options", '{"dense": {}}'], "--options are of --mixers"),
        (["--options", "3"], "invalid mixer_options value"),
        (["--tokens", "0"], "must be at least 1"),
        (["--backends", "cpuu"], "invalid choice: 'cpuu'"),
        (["--device", "cuda"], "torch finds no GPU on this machine"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "attention", *words])
    assert message in str(stopped.value) + capsys.readouterr().err
