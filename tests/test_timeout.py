"""A test that waits for ever is ended by the project's own settings of pytest, with a report that names it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
HANGS = {
    "a_lost_process": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()",
    "a_lost_answer": "multiprocessing.Pipe()[0].recv()",
    # a mutex that is locked twice, which no signal interrupts, by a caller that keeps Python's lock
    "compiled_code": "m = ctypes.create_string_buffer(64); [ctypes.PyDLL(None).pthread_mutex_lock(m) for _ in '12']",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the mutex of the test is that of glibc")
@pytest.mark.parametrize("waits_for", HANGS)
def test_a_hanging_test_is_ended_and_named(tmp_path, waits_for):
    settings, changed = re.subn(r"^(faulthandler_)?timeout = 6\d0\b", _seconds, PYPROJECT.read_text(), flags=re.M)
    assert changed == 2
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_hangs.py").write_text(
        f"import ctypes, multiprocessing, subprocess, sys\n\n\ndef test_{waits_for}():\n    {HANGS[waits_for]}\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert ended.returncode not in (0, 5)  # 5: no test was found
    assert f"test_{waits_for}" in ended.stdout + ended.stderr


def _seconds(setting: re.Match) -> str:
    return f"{setting[1] or ''}timeout = {3 if setting[1] else 1}"
