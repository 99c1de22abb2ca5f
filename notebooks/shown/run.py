"""Run notebooks and keep them with tables and figures, as a code host shows them: run.py [NAME ...]; all when none is named.

Kept is what does not change from run to run: no times, counts of executions, ids or log, and figures as PNG alone. A cell
with the tag `machine` runs, but what it prints is not kept.
"""

import base64
import io
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

SHOWN = Path(__file__).resolve().parent
# Runs before the first cell and is not kept. Figures of 900 pixels have room for their legends.
BEFORE = "import plotly.io as pio; pio.renderers.default, pio.defaults.default_width = 'png', 900"
COLOURS = 64


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


def smaller(png: str) -> str:
    """A picture of few colours, as plots are: a quarter of the size."""
    file = io.BytesIO()
    whole = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def kept(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Text in one piece and small pictures, without the log."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if output.output_type == "stream" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
            continue
        if output.output_type == "display_data":
            data = {"image/png": smaller(output.data["image/png"])}
            output = nbformat.v4.new_output("display_data", data)
        found.append(output)
    return found


def shown(path: Path) -> nbformat.NotebookNode:
    """The notebook after a run in its own folder."""
    notebook, place = source(path), {"metadata": {"path": str(path.parent)}}
    run = nbformat.from_dict(notebook)
    run.cells.insert(0, nbformat.v4.new_code_cell(BEFORE))
    NotebookClient(run, timeout=1200, kernel_name="python3", resources=place).execute()
    for cell, done in zip(notebook.cells, run.cells[1:], strict=True):
        if cell.cell_type == "code" and "machine" not in cell.metadata.get("tags", ()):
            cell.outputs = kept(done.outputs)
        cell.metadata = nbformat.NotebookNode()
    return notebook


if __name__ == "__main__":
    # Where the kernel finds the package.
    os.environ["PYTHONPATH"] = str(SHOWN.parents[1])
    paths = sorted(SHOWN.parent.glob("[0-9]*.py"))
    unknown = set(sys.argv[1:]) - {path.stem for path in paths}
    if unknown:
        sys.exit(
            f"There is no notebook {', '.join(sorted(unknown))}; there are {', '.join(path.stem for path in paths)}."
        )
    for path in paths:
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            print(f"{path.stem} ...", flush=True)
            nbformat.write(shown(path), SHOWN / f"{path.stem}.ipynb")
