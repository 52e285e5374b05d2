"""What a run prints: no warnings of other packages."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["run.main", "commands.profile", "models.baselines", "data.clips.dataset"])
def test_an_import_prints_nothing(module):
    done = subprocess.run(
        [sys.executable, "-c", f"import videofib.{module}"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
