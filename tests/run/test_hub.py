"""A model goes to the Hub as ``save_pretrained`` writes it, and comes back; a server in this process is the Hub."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

import videofib
from tests.run.hub_server import READ_ONLY, TOKEN, serve
from videofib.checkpoint.file import CheckpointError
from videofib.models.pretrained.hub import upload
from videofib.run.load import load
from videofib.run.save import _portable
from videofib.run.saved_model import SavedModel

NAME = "someone/colours"
GOES_AND_COMES_BACK = """
import sys
import videofib
print(videofib.load(sys.argv[1]).push_to_hub(sys.argv[2], private=True))
print(videofib.SavedModel.from_pretrained(sys.argv[2]).classes)
"""


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return load(trained).save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server; the Hub's library in this process asks it, and has no stored token."""
    with serve() as running:
        for name, value in (("ENDPOINT", running.url), ("HF_TOKEN_PATH", str(tmp_path / "none"))):
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield running


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_uploaded_is_what_save_pretrained_writes_and_loads_again(folder, hub, trained, experiment, tmp_path):
    """In a process of its own, as people do it: with the token in the environment."""
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", GOES_AND_COMES_BACK, str(folder), NAME]
    done = subprocess.run(command, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"{hub.url}/{NAME}/commit/{hub.sha(NAME)}", str(load(folder).classes)]
    repo = hub.repos[NAME]
    assert repo["private"]
    assert repo["commits"] == 1
    uploaded = {name: data for name, data in repo["files"].items() if name != ".gitattributes"}
    assert uploaded == contents(folder)
    for name, data in uploaded.items():
        for secret in (TOKEN, str(trained), str(experiment), str(tmp_path), f"{Path.home()}/"):
            assert secret.encode() not in data, (name, secret)


def test_a_card_that_is_there_stays_and_files_of_another_model_go(folder, hub):
    own = {"README.md": b"my words", "notes.txt": b"my notes", "other.safetensors": b"mine"}
    old = {"wythoff.py": b"old", "model.safetensors.index.json": b"", "model-00001-of-00002.safetensors": b""}
    hub.repos[NAME] = {"private": False, "files": own | old, "commits": 3}
    upload(folder, NAME, token=TOKEN)
    assert hub.repos[NAME]["files"] == {**contents(folder), **own}
    assert hub.repos[NAME]["files"]["wythoff.py"] != b"old"
    assert hub.repos[NAME]["commits"] == 4


@pytest.mark.parametrize("there", [False, True])
def test_a_repository_that_is_there_does_not_change_who_sees_it(there, folder, hub):
    hub.repos[NAME] = {"private": there, "files": {}, "commits": 0}
    message = f"is {'private' if there else 'public'} on the Hugging Face Hub, and private={not there} does not change"
    with pytest.raises(CheckpointError, match=message):
        upload(folder, NAME, token=TOKEN, private=not there)
    assert not hub.repos[NAME]["files"]
    upload(folder, NAME, token=TOKEN, private=there)
    assert hub.repos[NAME]["files"]


@pytest.mark.parametrize(
    ("token", "constant", "message"),
    [
        ("hf_" + "x" * 34, {}, "no token, or one that is not valid; run `hf auth login`, or give token=..."),
        (None, {}, "no token, or one that is not valid; run `hf auth login`, or give token=..."),
        (READ_ONLY, {}, "the token may not write there; make one with write access"),
        (TOKEN, {"HF_HUB_OFFLINE": True}, "OfflineModeIsEnabled"),
        (TOKEN, {"ENDPOINT": "http://127.0.0.1:9"}, "ConnectError"),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_token(token, constant, message, folder, hub, monkeypatch):
    for name, value in constant.items():
        monkeypatch.setattr(constants, name, value)
    with pytest.raises(CheckpointError) as error:
        upload(folder, NAME, token=token)
    said = str(error.value)
    assert said.startswith(f"cannot upload to {NAME} on the Hugging Face Hub: ")
    assert message in said
    assert "\n" not in said
    assert token is None or token not in said
    assert not hub.repos


@pytest.mark.parametrize("name", ["colours", "a/b/c", "../x", "a/..", "/etc/passwd", ""])
def test_not_the_name_of_a_repository(name, folder):
    with pytest.raises(CheckpointError, match="is not the name of a repository, owner/model"):
        upload(folder, name)


def test_from_pretrained_is_load(folder):
    found = SavedModel.from_pretrained(folder, options={"TEST.NUM_ENSEMBLE_VIEWS": 3})
    assert isinstance(found, videofib.SavedModel)
    assert found.views[0] == 3


def test_no_path_in_any_key_is_saved(folder):
    cfg = load(folder).cfg.clone()
    cfg.defrost()
    paths = ["/home/someone/videos", "~/videos", "C:\\videos", "s3://bucket/videos", "../videos", "\\\\host\\videos"]
    for path in paths:
        cfg.DATA.PATH_PREFIX, cfg.TEST.CHECKPOINT_PART, cfg.DATA.DECODING_BACKEND = path, path, path
        assert not re.search("videos", _portable(cfg).dump())
    cfg.DATA.PATH_LABEL_SEPARATOR = "/"
    assert _portable(cfg).DATA.PATH_LABEL_SEPARATOR == "/"
