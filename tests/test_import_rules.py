"""Who may import whom, and what an import may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "videofib"

# room -> the other rooms of videofib that it may import; every room may import the package itself, for its version
ALLOWED = {
    "attention": set(),
    "mixers": {"attention"},
    "models": {"attention", "checkpoint", "classes", "files", "mixers", "printable"},
    "data": {"classes", "files", "printable", "signals", "starting"},
    "prep": {"classes", "data", "files", "parser", "printable", "signals", "starting"},
    "metrics": {"classes", "files", "printable"},
    "engine": {"checkpoint", "distributed", "files", "metrics", "printable", "tracking"},
    "pretraining": {"attention", "engine", "mixers", "models"},
    "checkpoint": {"classes", "distributed", "files", "printable"},
    "distributed": {"printable", "starting"},
    "tracking": {"files", "printable"},
    "report": {"classes", "data", "files", "metrics", "printable"},
    "config": {"printable"},
    "run": {
        *("attention", "checkpoint", "classes", "config", "data", "distributed", "engine", "files", "metrics"),
        *("mixers", "models", "parser", "pretraining", "printable", "report", "signals", "starting", "tracking"),
    },
    "bench": {"attention", "files", "mixers", "models", "parser", "printable", "signals"},
    "doctor": {"attention", "data", "prep", "printable", "tracking"},
    "files": set(),
    "classes": {"printable"},
    "parser": {"printable"},
    "printable": set(),
    "signals": set(),
    "starting": {"signals"},
    "cli": {"parser", "printable", "signals"},  # imports the command that it is asked for by its name
    "__main__": {"cli"},
}
EVERYTHING = set(ALLOWED)  # which commands may import
READS_THE_CONFIG = {"report/read.py"}  # beside run and commands
ATTENTION_ORDER = [
    "wythoff",
    "matching",
    "diagonals",
    "support",
    "pattern",
    "patterns",
    "autocast",
    "kernels",
    "op",
    "pattern_op",
    "pattern_functional",
    "backends",
    "functional",
    "rows",
    "context",
    "module",
]


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports from videofib."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.split(".")[0] == "videofib"}


def part(name: str) -> str:
    """``videofib.data.video.decode`` -> ``data``; ``videofib`` and names in it -> ``.``."""
    pieces = name.split(".")
    if len(pieces) > 1 and ((PACKAGE / pieces[1]).is_dir() or (PACKAGE / f"{pieces[1]}.py").is_file()):
        return pieces[1]
    return "."


# the code that exports carry imports copies beside it (tests/models/pretrained/test_remote_code.py)
COPIED = "models/pretrained/remote_code/"
FILES = sorted(
    file for p in PACKAGE.rglob("*.py") if not (file := p.relative_to(PACKAGE).as_posix()).startswith(COPIED)
)


@pytest.mark.parametrize("file", [f for f in FILES if f != "__init__.py"])
def test_imports_go_one_way(file):
    own = Path(file).parts[0].removesuffix(".py")
    used = {part(name) for name in imports(PACKAGE / file)} - {own, "."}
    allowed = EVERYTHING if own == "commands" else ALLOWED[own]
    assert used <= allowed | ({"config"} if file in READS_THE_CONFIG else set())


def test_pretraining_knows_of_the_engine_what_an_objective_is_and_no_more():
    files = [file for file in FILES if file.startswith("pretraining/")]
    used = {name for file in files for name in imports(PACKAGE / file) if name.startswith("videofib.engine")}
    assert {".".join(name.split(".")[:3]) for name in used} == {"videofib.engine.objective"}


def test_attention_reads_in_order():
    for rank, name in enumerate(ATTENTION_ORDER):
        for path in [PACKAGE / "attention" / f"{name}.py", *(PACKAGE / "attention" / name).glob("*.py")]:
            if not path.is_file():
                continue
            used = {n.split(".")[2] for n in imports(path) if n.startswith("videofib.attention.")}
            assert used <= set(ATTENTION_ORDER[: rank + 1]), f"{path} imports {used}"


def test_wythoff_needs_the_standard_library_alone():
    tree = ast.parse((PACKAGE / "attention/wythoff.py").read_text())
    modules = {
        n.module if isinstance(n, ast.ImportFrom) else n.names[0].name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom | ast.Import)
    }
    assert modules <= set(sys.stdlib_module_names)


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "numpy", "timm", "av", "decord")
    script = f"import sys, videofib; print(videofib.__version__, [m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split(maxsplit=1)[1].strip() == "[]"


def test_attention_mixers_and_models_need_torch_timm_and_einops_only():
    """Any other import from videofib's code fails, numba is missing, warnings are errors; sparse attention works."""
    script = """
import builtins, sys, warnings
plain = builtins.__import__
def only_three(name, globals=None, locals=None, fromlist=(), level=0):
    importer, root = (globals or {}).get("__name__", ""), name.partition(".")[0]
    allowed = {*sys.stdlib_module_names, "torch", "timm", "einops", "videofib"}
    if importer.startswith("videofib") and root not in allowed:
        raise ImportError(f"{importer} imports {name}")
    return plain(name, globals, locals, fromlist, level)
builtins.__import__ = only_three
for name in ("numba", "fvcore", "av", "transformers", "pytorchvideo", "pyarrow"):
    sys.modules[name] = None  # as if it were not installed
import videofib, videofib.attention, videofib.mixers, videofib.models
import torch
from videofib.attention import SelfAttention, Support
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    SelfAttention(8, 2, Support.fibottention(2, 9))(torch.zeros(1, 10, 8))
print([str(warning.message) for warning in caught])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "numba is not installed" in done.stdout


def test_all_command_lines_are_read_by_the_one_parser():
    assert [file for file in FILES if "ArgumentParser" in (PACKAGE / file).read_text()] == ["parser.py"]


def test_no_path_hacks():
    root = PACKAGE.parent
    for folder in ("videofib", "tools", "data_prep"):
        for path in (root / folder).rglob("*.py"):
            assert "sys.path" not in path.read_text(), path
    assert not list(PACKAGE.rglob("utils.py"))
