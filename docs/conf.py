"""How sphinx builds these pages; nothing is fetched from the web.

python -m sphinx -W --keep-going -b html docs artifacts/site
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import workbench

project = "scGPT workbench"
project_copyright = "the authors of the scGPT workbench, MIT licence"
version = release = workbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
# Docstrings write names of the code in single backticks.
default_role = "py:obj"
# planted_extraction.md is written by a script, whose headings skip a level.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
# As a list: a field of attributes would be linked to whatever else has that name.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = "scGPT workbench"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

_TYPE = re.compile(r"(:type [^:]+: )([^`]+)")
# A bar, the last underscore of a name, and the point after a lone letter, which would number a list.
_SPECIAL = re.compile(r"(?<!\\)\||(?<=\w)_(?![\w`*])|(?<=^\w)\.$")


def _plain(app, what, name, obj, options, lines):
    """Docstrings are plain text: bars are bars, ``offset_`` is a name, and 'ndarray, shape (k,)' means no attribute shape."""
    for i, line in enumerate(lines):
        text = line.lstrip()
        typed = _TYPE.fullmatch(text)
        parts = [typed[1], typed[2], ""] if typed else text.split("``")
        escaped = [part if j % 2 else _SPECIAL.sub(r"\\\g<0>", part) for j, part in enumerate(parts)]
        lines[i] = line[: len(line) - len(text)] + "``".join(escaped)


def _skip(app, what, name, obj, skip, options):
    """Leave out what scikit-learn adds to every estimator, and what a module has only imported."""
    home = getattr(obj, "__module__", None) or "workbench"
    return True if re.fullmatch(r"set_\w+_request", name) or not home.startswith("workbench") else None


def setup(app):
    """Connect both; after napoleon, which has the usual priority of 500."""
    app.connect("autodoc-process-docstring", _plain, priority=900)
    app.connect("autodoc-skip-member", _skip)
