"""Run notebooks and keep them with tables and figures, as a code host shows them: run.py [NAME ...]; all when none is named.

Kept is what does not change from run to run: no times, counts of executions, ids or log, and figures as PNG alone. A cell
with the tag `machine` runs, but what it prints is not kept.
"""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

SHOWN = Path(__file__).resolve().parent


def source(path: Path) -> nbformat.NotebookNode:
    """A notebook without outputs, or anything that changes each time that it is read."""
    read = jupytext.read(path)
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    cells = [make[cell.cell_type](cell.source, metadata=cell.metadata) for cell in read.cells]
    for cell in cells:
        del cell["id"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=about, nbformat_minor=4)


def kept(output: nbformat.NotebookNode) -> bool:
    return output.get("name") != "stderr"


def shown(path: Path) -> nbformat.NotebookNode:
    """The notebook after a run in its own folder."""
    notebook = source(path)
    about = dict(notebook.metadata)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=place).execute()
    notebook.metadata = nbformat.from_dict(about)
    for cell in notebook.cells:
        hidden = "machine" in cell.metadata.get("tags", ())
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [] if hidden else [output for output in cell.outputs if kept(output)]
            for output in cell.outputs:
                output.pop("execution_count", None)
                if "metadata" in output:
                    output.metadata = nbformat.NotebookNode()
    return notebook


if __name__ == "__main__":
    # What the kernel draws its figures with, and where it finds the package.
    os.environ |= {"PLOTLY_RENDERER": "png", "PYTHONPATH": str(SHOWN.parents[1])}
    paths = sorted(SHOWN.parent.glob("[0-9]*.py"))
    unknown = set(sys.argv[1:]) - {path.stem for path in paths}
    if unknown:
        sys.exit(f"There is no notebook {', '.join(sorted(unknown))}; there are {', '.join(path.stem for path in paths)}.")
    for path in paths:
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            print(f"{path.stem} ...", flush=True)
            nbformat.write(shown(path), SHOWN / f"{path.stem}.ipynb")
