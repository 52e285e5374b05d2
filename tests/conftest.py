"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest
import torch  # noqa: F401, before any test imports decord: the other way round torch crashes


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and official annotation files, or a skip that says how to provide it."""
    folder = Path(os.environ.get("VIDEOFIB_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real videos at {folder}; set VIDEOFIB_DATA to their folder")
    return folder
