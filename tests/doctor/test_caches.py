"""Caches as ``videofib doctor`` lists them."""

import pytest

from videofib.doctor.caches import caches, measured
from videofib.doctor.finding import State


@pytest.mark.parametrize(
    ("variable", "name", "inside"),
    [
        ("VIDEOFIB_CACHE_DIR", "packets of videos", "packets"),
        ("TORCH_HOME", "torch hub", "hub"),
        ("TORCHINDUCTOR_CACHE_DIR", "torch.compile", ""),
    ],
)
def test_a_cache_is_where_its_variable_says(variable, name, inside, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path))
    folder = tmp_path / inside
    (folder / "below").mkdir(parents=True)
    (folder / "below/file").write_bytes(bytes(3 << 20))
    found = {finding.part: finding for finding in caches()}[f"cache {name}"]
    assert (found.state, found.text) == (State.KNOWN, f"{folder} ({variable}): 3.0 MiB, files: 1")


def test_every_cache_has_its_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOFIB_CACHE_DIR", "")  # keeps nothing
    found = {finding.part: finding.text for finding in caches()}
    assert found["cache packets of videos"].startswith("nothing is kept; VIDEOFIB_CACHE_DIR ")
    assert "(NUMBA_CACHE_DIR): " in found["cache CPU kernel"]
    assert "(HF_HOME): " in found["cache Hugging Face Hub"]
    assert len(found) == 5


def test_links_and_other_files_do_not_count(tmp_path):
    (tmp_path / "a.nbc").write_bytes(b"1234")
    (tmp_path / "a.pyc").write_bytes(b"12345678")
    (tmp_path / "b.nbc").symlink_to(tmp_path / "a.nbc")
    (tmp_path / "above").symlink_to(tmp_path)
    assert measured(tmp_path) == (2, 12)
    assert measured(tmp_path, (".nbi", ".nbc")) == (1, 4)
    assert measured(tmp_path / "none") == (0, 0)
