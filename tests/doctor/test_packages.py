"""Packages and devices as ``videofib doctor`` lists them."""

import re
from configparser import ConfigParser
from pathlib import Path

from videofib import __version__
from videofib.doctor.devices import devices
from videofib.doctor.finding import State
from videofib.doctor.packages import OPTIONAL, needed, packages

ROOT = Path(__file__).parents[2]


def test_versions_of_all_that_computes_and_reads():
    found = {finding.part: finding for finding in packages()}
    assert found["videofib"].text == __version__
    assert re.fullmatch(r"\d+\.\d+.*, FFmpeg \d.*", found["package av"].text)
    assert all(found[f"package {name}"].state is State.WORKS for name in ("torch", "timm", "numpy", "av", "numba"))


def test_every_extra_for_users_has_a_line():
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    for_developers = ("test", "dev", "docs")
    extras = {name: text for name, text in declared["options.extras_require"].items() if name not in for_developers}
    names = {re.match(r"[\w-]+", line)[0] for text in extras.values() for line in text.split("\n") if line}
    assert names <= set(OPTIONAL)


def test_a_package_that_is_not_installed_is_named_with_its_purpose(monkeypatch):
    monkeypatch.setitem(OPTIONAL, "no-such-package", "nothing")
    *_, finding = packages()
    assert (finding.state, finding.text) == (State.MISSING, "not installed; for nothing")


def test_a_needed_package_that_does_not_import_fails(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("raise OSError('libcudart.so.13: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = needed("half_installed")
    assert finding.state is State.FAILED
    assert finding.text == "cannot be imported (OSError: libcudart.so.13: no such file); pip install videofib"
    assert needed("no_such_module").state is State.FAILED


def test_devices_name_cores_threads_and_gpus():
    cpu, *gpus = devices()
    assert re.search(r"\d+ of \d+ cores usable; threads of torch: \d+; ", cpu.text)
    assert gpus
    assert all(finding.part.startswith("CUDA device") for finding in gpus)
