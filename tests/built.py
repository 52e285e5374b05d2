"""The wheel and the sdist as a stranger gets them: from the files of the checkout, installed into an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def copy_checkout(folder: Path) -> Path:
    """Copy the files of the checkout, without what git ignores; skips where there is no checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, whose files git lists")
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]  # the checkout may be another user's
    listed = subprocess.run([*git, "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    return folder


def build_sdist(checkout: Path, folder: Path) -> Path:
    """The sdist of a copy of the checkout, in ``folder``; built without a network."""
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=checkout, check=True, capture_output=True)
    (sdist,) = folder.glob("videofib-*.tar.gz")
    return sdist


def unpack(sdist: Path, folder: Path) -> Path:
    """The folder that an sdist of ours holds."""
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    (unpacked,) = folder.glob("videofib-*")
    return unpacked


def build_wheel(source: Path, folder: Path) -> Path:
    """The wheel of a folder with the sources, in ``folder``; built without a network."""
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    subprocess.run([*build, source], check=True)
    (wheel,) = folder.glob("videofib-*.whl")
    return wheel


def install(wheel: Path, site: Path) -> Path:
    """Install a wheel without its dependencies, which are those of this Python, into the folder ``site``."""
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return site


def environment(site: Path) -> dict[str, str]:
    """In which ``videofib`` is the installed command, and ``import videofib`` the installed package."""
    path = os.pathsep.join([str(site / "bin"), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": str(site), "PATH": path, "HF_HUB_OFFLINE": "1"}
