"""Run the notebooks of the documentation, and keep their outputs in them.

    python tools/run_notebooks.py docs/notebooks/*.ipynb

Each runs in a temporary folder. What it prints and draws is written into its file; nothing is if a cell fails.
Needs the extra [docs].
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from videofib.files import replacing
from videofib.parser import Parser

CELL_SECONDS = 600  # a cell that takes longer hangs


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, after a run in a folder, by the Python that runs this.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails; the message has the cell and its error.
    """
    node = nbformat.read(notebook, as_version=4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # where videofib is
    where = {"metadata": {"path": str(folder)}}
    with TemporaryDirectory() as sockets:  # in place of ports; their paths must be short
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        options = {"timeout": CELL_SECONDS, "record_timing": False, "coalesce_streams": True}
        client = NotebookClient(node, km=kernel, resources=where, **options)
        client.execute(env={**os.environ, "PATH": path, "IPYTHONDIR": f"{sockets}/ipython"})
    for cell in node.cells:
        if cell.cell_type == "code":  # warnings and progress are about this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    node.metadata["language_info"] = {"name": "python"}  # without versions
    return node


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    for notebook in parser.parse_args(argv).notebooks:
        with TemporaryDirectory() as folder:
            node = executed(notebook, Path(folder))
        with replacing(notebook) as partial:
            nbformat.write(node, partial)
        print(f"wrote {notebook}")


if __name__ == "__main__":
    main()
