"""Every package that videofib imports is declared in setup.cfg, and installs with it or with an extra."""

import ast
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PUBLISHED_AS = {"PIL": "pillow", "decord": "decord2", "mlflow": "mlflow-skinny", "yaml": "pyyaml"}
COMES_WITH = {"triton": "torch"}  # on Linux


def imported() -> set[str]:
    """The top-level modules that files of the package import, anywhere in them, without Python's and its own.

    The code that exports carry with them, for transformers, is not imported here.
    """
    names = set()
    for path in (path for path in (ROOT / "videofib").rglob("*.py") if "remote_code" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"videofib"}


def declared() -> set[str]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return {re.match(r"[\w-]+", line)[0] for text in lines for line in text.split("\n") if line}


def test_every_imported_package_is_declared():
    packages = {PUBLISHED_AS.get(name, COMES_WITH.get(name, name)) for name in imported()}
    assert {"torch", "pyyaml", "llvmlite", "pillow"} <= packages
    assert packages - declared() == set()
