"""The ``videofib`` command: every command and data set by its name, and the scripts that do the same."""

import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from videofib import __version__
from videofib.cli import COMMANDS, main
from videofib.commands.prep import AFTERWARDS, DATA_SETS

ROOT = Path(__file__).parents[1]
SCRIPTS = {  # in tools
    "train_net": "train",
    "test_net": "test",
    "run_net": "run",
    "report": "report",
    "compare_runs": "compare",
    "browse_dataset": "browse",
    "profile_model": "profile",
    "convert_weights": "convert",
    "submit": "submit",
    "ensemble": "ensemble",
}
BENCHMARK_SCRIPTS = {"benchmark_attention": "attention", "benchmark_model": "model"}  # in tools


def printed_help(capsys, run, *words):
    with pytest.raises(SystemExit, match=r"^0$"):
        run(*words)
    return capsys.readouterr().out


def test_every_command_has_a_module():
    assert {path.stem for path in (ROOT / "videofib/commands").glob("[!_]*.py")} == set(COMMANDS)


def test_every_data_set_has_a_name_and_a_script():
    modules = {path.stem for path in (ROOT / "videofib/prep/sets").glob("[!_]*.py")}
    assert modules == set(DATA_SETS) == {path.stem for path in (ROOT / "data_prep").glob("*.py")}


@pytest.mark.parametrize("name", DATA_SETS)
def test_command_and_script_of_a_data_set_list_the_same_options(name, capsys, monkeypatch):
    command = printed_help(capsys, main, ["prep", name, "--help"])
    assert command.startswith(f"usage: videofib prep {name} ")
    assert "--out" in command
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(ROOT / f"data_prep/{name}.py"), run_name="__main__")
    script = capsys.readouterr().out
    assert command.partition("options:")[2] == script.partition("options:")[2]


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_a_script_is_the_command(script, name, capsys, monkeypatch):
    command = printed_help(capsys, main, [name, "--help"])
    assert command.startswith(f"usage: videofib {name} ")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    path = ROOT / f"tools/{script}.py"
    assert printed_help(capsys, lambda: runpy.run_path(str(path), run_name="__main__")) == command
    assert f"python tools/{script}.py" in path.read_text()


@pytest.mark.parametrize(("script", "name"), BENCHMARK_SCRIPTS.items())
def test_a_script_is_the_benchmark(script, name, capsys, monkeypatch):
    command = printed_help(capsys, main, ["bench", name, "--help"])
    assert command.startswith(f"usage: videofib bench {name} ")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    path = ROOT / f"tools/{script}.py"
    assert printed_help(capsys, lambda: runpy.run_path(str(path), run_name="__main__")) == command


def test_a_command_that_needs_no_config_says_what_it_does(capsys):
    assert "Writes OUTPUT_DIR/report.html" in printed_help(capsys, main, ["report", "--help"])


@pytest.mark.parametrize(
    ("words", "names"), [([], COMMANDS), (["prep"], DATA_SETS | AFTERWARDS)], ids=["commands", "data sets"]
)
def test_help_has_a_line_for_each_name(words, names, capsys):
    lines = printed_help(capsys, main, [*words, "--help"]).splitlines()
    assert all(sum(line.startswith(f"  {name} ") for line in lines) == 1 for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rapport"], "unknown name 'rapport'; did you mean 'report'?"),
        (["prep", "ucf102"], "unknown name 'ucf102'; did you mean 'ucf101'?"),
        (["xyzzy"], f"unknown name 'xyzzy'; expected one of {', '.join(COMMANDS)}"),
        ([], "the following arguments are required: NAME"),
    ],
)
def test_a_wrong_name_is_reported_with_the_nearest(words, message, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(words)
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_the_package_declares_the_command():
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    assert declared["options.entry_points"]["console_scripts"].split("\n") == ["", "videofib = videofib.cli:main"]


def test_the_module_is_the_command():
    words = [sys.executable, "-m", "videofib", "--version"]
    assert subprocess.check_output(words, text=True).strip() == f"videofib {__version__}"


HEAVY = ("torch", "numpy", "av", "numba")
PAGES = [[], *([name] for name in COMMANDS), *(["prep", name] for name in DATA_SETS | AFTERWARDS)]


@pytest.mark.parametrize("words", PAGES, ids=lambda words: " ".join(["videofib", *words]))
def test_help_costs_no_heavy_import(words):
    script = f"""
import sys
from videofib.cli import main
try:
    main({[*words, "--help"]})
except SystemExit:
    print([m for m in {HEAVY} if m in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True).splitlines()[-1] == "[]"
