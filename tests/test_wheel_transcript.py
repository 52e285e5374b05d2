"""From an empty folder, with nothing but the wheel: prepare, train, test, look, ask, and load. And the sdist's tests.

Each step is a command as a reader of the documentation types it; one that this version does not have is left out.
"""

import importlib.util
import subprocess
import sys

import pytest

from tests.built import build_sdist, build_wheel, copy_checkout, environment, install, unpack
from videofib.cli import COMMANDS

pytest.importorskip("setuptools", minversion="77", reason="builds a wheel without a network")
pytestmark = pytest.mark.slow

RECIPE = "Motion/TimeSformerXXS_joint_fibottention_8x3_48"
RUN = (
    f"--cfg {RECIPE} DATA.PATH_TO_DATA_DIR data OUTPUT_DIR run TIMESFORMER.DEPTH 1 SOLVER.MAX_EPOCH 1 "
    "SOLVER.WARMUP_EPOCHS 0.5 TRAIN.BATCH_SIZE 8 TEST.BATCH_SIZE 16 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1"
)
CLIP = "raw/videos/MoveLeft/v_MoveLeft_g01_c01.mp4"
# what is typed, in order, and the files that are there afterwards
STEPS = [
    ("prep motion --out raw --train-per-class 2 --test-per-class 1 --jobs 1", [CLIP, "raw/annotations/classInd.txt"]),
    (f"predict {CLIP} --model motion_xxs --out first.jsonl", ["first.jsonl"]),  # before any training
    ("prep ucf101 --videos raw/videos --annotations raw/annotations --out data --short-side 64 --jobs 1", ["data"]),
    (f"train {RUN}", ["run/checkpoints/checkpoint_epoch_00001.pyth"]),
    (f"test {RUN}", ["run/test_results.json", "run/test_scores.parquet"]),
    ("report run", ["run/report.html"]),
    (f"predict {CLIP} --model run --out predictions.csv", ["predictions.csv"]),
    (f"predict {CLIP} --model run --timeline --out film", ["film/timeline.json", "film/timeline.mp4"]),
    ("features --list data/train.csv --model motion_xxs --views 1 1 --out train.npz", ["train.npz"]),
    ("features --list data/test.csv --model motion_xxs --views 1 1 --out test.npz", ["test.npz"]),
    ("probe --train train.npz --test test.npz", []),
    (f"explain {CLIP} --model motion_xxs --out explained", ["explained"]),
    ("export --model motion_xxs --to onnx --out exported.onnx", ["exported.onnx"]),
]
LOAD = """
import videofib
for source in ("run", "motion_xxs"):
    model = videofib.load(source)
    print(source, len(model.predict("{clip}", views=(1, 1))), tuple(model.features("{clip}", views=(1, 1)).shape))
print(videofib.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, the wheel that is built from it, ``site`` where that is installed, and ``unpacked``."""
    folder = tmp_path_factory.mktemp("built")
    sdist = build_sdist(copy_checkout(folder / "checkout"), folder)
    unpacked = unpack(sdist, folder / "sdist")
    install(build_wheel(unpacked, folder), folder / "site")
    return folder


@pytest.fixture(scope="module")
def stranger(built, tmp_path_factory):
    """``stranger(*words)`` runs a command in a folder that is empty at first; ``videofib`` is the installed one."""
    folder = tmp_path_factory.mktemp("stranger")

    def run(*words, cwd=folder):
        return subprocess.run(
            [*map(str, words)], cwd=cwd, env=environment(built / "site"), capture_output=True, text=True
        )

    run.folder, run.site = folder, built / "site"
    return run


@pytest.mark.parametrize(("words", "files"), STEPS, ids=[words.split()[0] for words, _ in STEPS])
def test_a_step_of_a_stranger(stranger, words, files):
    """Each needs those before it, in the order of the file."""
    if words.split()[0] not in COMMANDS:
        pytest.skip("this version has no such command")
    done = stranger("videofib", *words.split())
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr
    assert [name for name in files if not (stranger.folder / name).exists()] == []


def test_a_stranger_loads_both_models(stranger):
    done = stranger(sys.executable, "-c", LOAD.format(clip=CLIP))
    lines = done.stdout.splitlines()
    assert lines[:2] == ["run 5 (64,)", "motion_xxs 5 (64,)"], done.stderr
    assert lines[2].startswith(str(stranger.site))


def test_the_shop_takes_both_files(built):
    if importlib.util.find_spec("twine") is None:
        pytest.skip("twine is not installed")
    files = [*built.glob("videofib-*.whl"), *built.glob("videofib-*.tar.gz")]
    assert len(files) == 2
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    assert all(file.stat().st_size < 4 << 20 for file in files)


def test_the_tests_of_the_sdist_are_all_found_and_run(built, stranger):
    (unpacked,) = (built / "sdist").iterdir()
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    found = stranger(*pytest_, "--collect-only", cwd=unpacked)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-2000:]
    few = ["tests/test_files.py", "tests/test_docs.py", "tests/attention/test_wythoff.py", "tests/test_packaging.py"]
    done = stranger(*pytest_, "-rs", *few, cwd=unpacked)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "this is no checkout" in done.stdout
