"""The pages that figures are shown on: templates, style and scripts, from the files in ``pages/``.

Whoever fills a template escapes what is put in; the templates themselves load nothing from elsewhere.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from string import Template

from workbench.figures.style import DARK

# Nothing may be fetched, whatever a label holds. Plotly builds WebGL programs with `Function`, hence unsafe-eval.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
)
_FOLDER = resources.files("workbench.figures") / "pages"


def template(name: str) -> Template:
    """A template whose marks ``@file@`` stand for other files, or for the policy of the page.

    Parameters
    ----------
    name
        File in ``pages/``, such as ``report.html``.
    """

    def part(mark: re.Match[str]) -> str:
        if mark[1] == "policy":
            return _POLICY
        # A dollar sign of a script is no mark of a template.
        return f"\n{text(mark[1])}".replace("$", "$$")

    return Template(re.sub(r"@([a-z._]+)@", part, text(name).rstrip("\n")))


def text(name: str) -> str:
    """A file of ``pages/``, with the colours of a dark page put in where it asks for them.

    Parameters
    ----------
    name
        File in ``pages/``, such as ``report.css``.
    """
    return (_FOLDER / name).read_text(encoding="utf-8").replace("@colors@", json.dumps(DARK))


REPORT, FIGURE_PAGE = template("report.html"), template("figure_page.html")
FIGURE, TABLE, PROVENANCE = template("figure.html"), template("table.html"), template("provenance.html")
FOLD, CONTROLS = template("fold.html"), template("controls.html")
