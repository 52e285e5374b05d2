"""The notebooks of the documentation run, and what is kept of their last run fits."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra [docs]")
pytest.importorskip("ipykernel", reason="notebooks are run in ipykernel, of the extra [docs]")

import nbformat
from nbclient.exceptions import CellExecutionError

from tools.run_notebooks import executed, main

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
LARGEST = 300_000  # bytes


def written(file, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    return file


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_a_complete_run(notebook):
    text = notebook.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    assert "".join(cells[0]["source"]).startswith("# "), "the page of the site needs a title"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "tools/run_notebooks.py FILE"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert len(text) < LARGEST
    texts = " ".join("".join(output.get("text", "")) for output in outputs)
    assert not re.search(r"(?:^|[\s'\"(=])/(?:home|tmp|root|work|usr)/", texts), "a path of the machine that ran it"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    assert executed(notebook, tmp_path).cells


@pytest.mark.slow
def test_a_run_is_kept_if_all_cells_succeed(tmp_path, capsys):
    good = written(tmp_path / "good.ipynb", "import os, sys; print(os.listdir()); print('!', file=sys.stderr)", "6 * 7")
    bad = written(tmp_path / "bad.ipynb", "%%bash\nexit 3")
    before = bad.read_bytes()
    main([str(good)])
    cells = nbformat.read(good, as_version=4).cells
    assert [cell.outputs[0].get("text") or cell.outputs[0]["data"]["text/plain"] for cell in cells] == ["[]\n", "42"]
    assert "!" not in good.read_text(encoding="utf-8").replace("print('!'", "")
    with pytest.raises(CellExecutionError, match="exit status 3"):
        main([str(bad)])
    assert bad.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"bad.ipynb", "good.ipynb"}
