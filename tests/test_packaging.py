"""The wheel: built from the files of the checkout, installed into an empty folder, and used from another."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from videofib import __version__

pytest.importorskip("setuptools", minversion="77", reason="builds a wheel without a network")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NAME = "UCF101/TimeSformer_joint_fibottention_8x8_224"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the wheel of a copy of the checkout is installed, without what git ignores."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("packaging")
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]  # the checkout may be another user's
    listed = subprocess.run([*git, "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        copy = folder / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    subprocess.run([*build, folder / "checkout"], check=True)
    (wheel,) = folder.glob("videofib-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def videofib(installed, tmp_path, *words):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "videofib", *map(str, words)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_the_package_and_its_configs(installed):
    def below(folder):
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.yaml")}

    assert below(installed / "videofib/configs") == below(ROOT / "configs")
    assert (installed / "videofib/py.typed").is_file()
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "videofib").rglob("*.py")}
    assert modules <= {file.relative_to(installed).as_posix() for file in installed.rglob("*.py")}
    assert sorted(path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")) == [
        "bin",
        "videofib",
    ]


def test_the_installed_command_answers(installed, tmp_path):
    assert videofib(installed, tmp_path, "--version").stdout == f"videofib {__version__}\n"
    assert "names:" in videofib(installed, tmp_path, "--help").stdout
    listed = videofib(installed, tmp_path, "configs").stdout.splitlines()
    names = {file.relative_to(ROOT / "configs").with_suffix("").as_posix() for file in (ROOT / "configs").glob("*/*")}
    assert names == {line for line in listed if line and not line.startswith(" ")}
    printed = videofib(installed, tmp_path, "configs", NAME).stdout
    assert printed == (ROOT / "configs" / f"{NAME}.yaml").read_text()
    assert list(tmp_path.iterdir()) == []


def test_an_installed_config_trains_as_far_as_its_data(installed, tmp_path):
    done = videofib(installed, tmp_path, "train", "--cfg", NAME, "OUTPUT_DIR", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "no data folder at data/ucf101" in done.stderr
