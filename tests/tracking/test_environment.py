"""The record of the source, the machine and the command."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videofib.tracking import environment
from videofib.tracking.environment import command_line, git_state, write_record


def git(folder, *words):
    names = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", "-C", folder, *names, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with a package, which has one commit."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    git(package, "init", "--quiet", "--initial-branch", "trunk", "..")
    git(package, "add", ".")
    git(package, "commit", "--quiet", "-m", "Begin")
    return package


def test_git_state_of_a_clean_and_of_a_changed_checkout(checkout, monkeypatch):
    head = git(checkout, "rev-parse", "HEAD").strip()
    clean = {"commit": head, "branch": "trunk", "dirty": False, "changed": [], "diff_sha256": None}
    assert git_state(checkout) == (clean, b"")
    monkeypatch.setenv("GIT_DIR", str(checkout / "nowhere"))  # as within a hook of another checkout
    assert git_state(checkout) == (clean, b"")
    monkeypatch.delenv("GIT_DIR")

    (checkout / "__init__.py").write_text("one = 2\n")
    (checkout / "new file.py").write_text("")
    found, diff = git_state(checkout)
    assert b"-one = 1\n+one = 2\n" in diff
    assert found["dirty"]
    assert found["changed"] == ["package/__init__.py", "package/new file.py"]
    assert found["diff_sha256"] == hashlib.sha256(diff).hexdigest()
    git(checkout, "checkout", "--quiet", "-b", os.fsdecode(b"caf\xe9"))
    assert git_state(checkout)[0]["branch"] == "caf\N{REPLACEMENT CHARACTER}"
    git(checkout, "checkout", "--quiet", "--detach")
    assert git_state(checkout)[0]["branch"] is None


def test_no_checkout_and_another_projects_checkout_have_no_state(checkout, tmp_path, monkeypatch):
    installed = checkout.parent / "venv" / "package"  # within a checkout, but no part of it
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) == (None, b"")
    assert git_state(tmp_path) == (None, b"")
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert git_state(checkout) == (None, b"")


def test_the_record_is_complete_and_the_patch_restores_the_source(checkout, tmp_path, monkeypatch):
    (checkout / "__init__.py").write_text("one = 2\n")
    monkeypatch.setattr(environment, "_SOURCE", checkout)
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", "--cfg", "FILE.yaml"])
    out = tmp_path / "out"
    write_record(out, prefix="test_", processes=3)
    found = json.loads((out / "test_environment.json").read_text())
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["processes"] == 3
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu_cores"] >= found["cpu_cores_usable"] >= 1
    assert found["command"] == "python tools/train_net.py --cfg FILE.yaml"
    assert len(found["gpus"]) == torch.cuda.device_count()
    (checkout / "__init__.py").write_text("one = 1\n")
    git(checkout.parent, "apply", str(out / "test_source.diff"))
    assert (checkout / "__init__.py").read_text() == "one = 2\n"

    git(checkout, "commit", "--quiet", "-am", "Change")
    write_record(out, prefix="test_")
    assert not (out / "test_source.diff").exists()  # that of the earlier start


def test_nothing_identifies_the_user(tmp_path, monkeypatch):
    home = tmp_path / "users" / "ada"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("API_TOKEN", "sesame-sesame")
    assert Path.home() == home
    words = ["python", f"{home}/my code/run.py", "OUT", f"{home}", f"X={home}/b", f"{home}2", "s3://ada:pw@host/a"]
    assert command_line(words) == f"python '~/my code/run.py' OUT ~ X=~/b {home}2 s3://host/a"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 987654)  # as in a container whose user has no entry
    assert command_line(["python", "~/a b"]) == "python '~/a b'"
    text = json.dumps(write_record(tmp_path / "out"))
    assert "sesame" not in text


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/usr/bin/videofib", "run"], "videofib run"),
        ([str(environment._SOURCE / "__main__.py"), "run"], "python -m videofib run"),
        (["tools/run_net.py", "--cfg", "a.yaml"], "python tools/run_net.py --cfg a.yaml"),
        (["/usr/lib/pytest/__main__.py"], "python /usr/lib/pytest/__main__.py"),
    ],
)
def test_the_command_is_the_one_that_was_typed(tmp_path, monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    assert write_record(tmp_path)["command"] == command
