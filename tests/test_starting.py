"""Scripts without a guard, programs on standard input, and too few open files: one reason, no traceback of workers."""

import shutil
import subprocess
import sys

import pytest

SCRIPT = """
from videofib.commands.train import main
main(["--cfg", {config!r}, "OUTPUT_DIR", {out!r}, "DATA_LOADER.NUM_WORKERS", "2", "REPORT.ENABLE", "False"])
"""


PREPARE = """
from videofib.commands.prep import main
main({words!r})
"""


def output(words, status=2, **options):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line]


@pytest.fixture
def script(experiment, tmp_path):
    return SCRIPT.format(config=str(experiment / "config.yaml"), out=str(tmp_path / "run"))


def test_a_script_without_a_guard(script, tmp_path):
    (tmp_path / "mine.py").write_text(script)
    (line,) = output([sys.executable, tmp_path / "mine.py"])
    assert line.endswith('put what the script does below a line: if __name__ == "__main__":')


def test_a_program_on_standard_input(script):
    (line,) = output([sys.executable, "-"], input=script)
    assert "from a program that is not in a file (<stdin>)" in line


def test_too_few_open_files(experiment, tmp_path):
    command = [sys.executable, "-m", "videofib", "train", "--cfg", experiment / "config.yaml"]
    options = ["OUTPUT_DIR", tmp_path / "run", "DATA_LOADER.NUM_WORKERS", "32", "REPORT.ENABLE", "False"]
    (line,) = output(["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *command, *options])
    assert "32 processes need more open files than the limit of 64: raise the limit (ulimit -n 4096), or lower" in line


@pytest.mark.parametrize("name", ["folder", "verify"])
def test_preparation_and_its_check_from_a_script_without_a_guard_and_from_standard_input(name, experiment, tmp_path):
    videos, prepared = tmp_path / "videos" / "red", tmp_path / "prepared"
    videos.mkdir(parents=True)
    for i in range(4):
        shutil.copy(experiment / f"train {3 * i}.mp4", videos)
    words = ["folder", "--videos", str(videos.parent), "--out", str(prepared), "--jobs", "2"]
    if name == "verify":
        subprocess.run([sys.executable, "-m", "videofib", "prep", *words], check=True, capture_output=True)
        words = ["verify", str(prepared), "--jobs", "2"]
    script = PREPARE.format(words=words)
    (tmp_path / "mine.py").write_text(script)
    (line,) = output([sys.executable, tmp_path / "mine.py"], status=1)
    assert line.endswith('put what the script does below a line: if __name__ == "__main__":')
    (line,) = output([sys.executable, "-"], status=1, input=script)
    assert "from a program that is not in a file (<stdin>)" in line
