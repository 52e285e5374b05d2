"""Settings of every test run, and the fixtures that any test may use."""

import fcntl
import os
import shutil
from pathlib import Path

# One thread a process: the workers of pytest-xdist have a core each, and sums keep their last bit only for one number
# of threads. A test that needs more sets them itself. Torch and numpy read this when they are imported.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ["VIDEOFIB_CACHE_DIR"] = ""  # no test leaves a file in the cache of the person who runs it

import pytest
import torch  # before any test imports decord: the other way round torch crashes


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and official annotation files, or a skip that says how to provide it."""
    folder = Path(os.environ.get("VIDEOFIB_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real videos at {folder}; set VIDEOFIB_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once(name, fill)``: the folder ``name``, which one worker of the run fills while the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build(name, fill):
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return build


@pytest.fixture(scope="session")
def experiment(once):
    """The folder of ``tests/experiment.py``, which tests only read: clips, lists, class names and ``config.yaml``."""
    from tests.experiment import write

    return once("experiment", write)


@pytest.fixture(scope="session")
def trained(once, experiment):
    """The folder of a run of that experiment, which tests only read: trained for two epochs, and tested."""
    from tests.experiment import run

    return once("trained", lambda folder: run(experiment, folder))
