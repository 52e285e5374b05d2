"""The wheel: built from the files of the checkout, installed into an empty folder, and used from another."""

import subprocess
import sys

import pytest

from tests.built import ROOT, build_wheel, copy_checkout, environment, install
from videofib import __version__

pytest.importorskip("setuptools", minversion="77", reason="builds a wheel without a network")
pytestmark = pytest.mark.slow

NAME = "UCF101/TimeSformer_joint_fibottention_8x8_224"
MODELS = "videofib/models/pretrained/weights"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the wheel of a copy of the checkout is installed, without what git ignores."""
    folder = tmp_path_factory.mktemp("packaging")
    wheel = build_wheel(copy_checkout(folder / "checkout"), folder)
    return install(wheel, folder / "site")


def videofib(installed, tmp_path, *words):
    command = [sys.executable, "-m", "videofib", *map(str, words)]
    return subprocess.run(command, cwd=tmp_path, env=environment(installed), capture_output=True, text=True)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_wheel_holds_the_package_and_its_configs(installed):
    def below(folder):
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.yaml")}

    assert below(installed / "videofib/configs") == below(ROOT / "configs")
    assert (installed / "videofib/py.typed").is_file()
    assert contents(installed / MODELS) == contents(ROOT / MODELS) != {}
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


def test_a_packaged_model_is_loaded_offline_and_saved_again(installed, tmp_path):
    code = (
        "import videofib; model = videofib.load('motion_xxs'); print(model.classes[0], model.name); "
        "model.save_pretrained('again'); print(videofib.load('again').results == model.results)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(installed), capture_output=True, text=True
    )
    assert done.stdout.split() == ["Grow", str(installed / MODELS / "motion_xxs"), "True"], done.stderr
