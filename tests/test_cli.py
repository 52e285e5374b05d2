"""The ``videofib`` command: every data set by its name, and the scripts as another door to the same."""

import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from videofib.cli import DATA_SETS, main

ROOT = Path(__file__).parents[1]


def test_every_data_set_has_a_name_and_a_script():
    modules = {path.stem for path in (ROOT / "videofib/prep/sets").glob("[!_]*.py")}
    assert modules == set(DATA_SETS) == {path.stem for path in (ROOT / "data_prep").glob("*.py")}


@pytest.mark.parametrize("name", DATA_SETS)
def test_both_doors_tell_the_same_options(name, capsys, monkeypatch):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["prep", name, "--help"])
    command = capsys.readouterr().out
    assert command.startswith(f"usage: videofib prep {name} ")
    assert "--out" in command
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(ROOT / f"data_prep/{name}.py"), run_name="__main__")
    script = capsys.readouterr().out
    assert command.partition("options:")[2] == script.partition("options:")[2]


def test_help_names_all_and_a_wrong_name_is_told(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in DATA_SETS)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["prep", "ucf102"])
    assert "invalid choice: 'ucf102'" in capsys.readouterr().err


def test_the_package_declares_the_command():
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    assert declared["options.entry_points"]["console_scripts"].split("\n") == ["", "videofib = videofib.cli:main"]


def test_help_costs_no_heavy_import():
    script = "import sys; from videofib import cli; print([m for m in ('numpy', 'torch', 'av') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
