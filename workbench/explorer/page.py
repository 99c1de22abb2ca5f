"""The explorer without Python: a piece of a page, or a page of its own, that loads nothing."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

from workbench.explorer.data import ExplorerData
from workbench.files import write_text

SCRIPT = "explorer.js"

# What anywidget hands to `render`, for a page on which nobody answers.
_SHIM = """
{
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const model = {
    get: (key) => (key === "data" ? data : undefined),
    set() {},
    save_changes() {},
    on() {},
    off() {},
    send() {},
  };
  render({ model, el: document.getElementById("explorer-root") });
}
"""

_FRAGMENT = Template("""<section id="explorer" aria-labelledby="explorer-heading">
<h2 id="explorer-heading">Explorer</h2>
<p class="note">Choose a head by a click, or by the arrow keys and Enter. Everything here was computed before.</p>
<div id="explorer-root"></div>
<noscript><p>The explorer needs JavaScript; what it shows of scores and cells is in the tables.</p></noscript>
<script type="application/json" id="explorer-data">$data</script>
<script type="module">$script</script>
</section>""")

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)

_PAGE = Template(f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem 1.25rem 3rem; background: #f6f6f8; color: #1b1b1f;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }}
.note {{ color: #55555e; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #16171b; color: #ececf0; }}
  .note {{ color: #a9abb5; }}
}}
</style>
</head>
<body>
<main>
<h1>$title</h1>
$fragment
</main>
</body>
</html>
""")


@cache
def script() -> str:
    """The explorer's JavaScript module, as anywidget takes it."""
    return (resources.files("workbench.explorer") / SCRIPT).read_text(encoding="utf-8")


def explorer_fragment(data: ExplorerData) -> str:
    """The explorer as a section of a page, with its data and its script in it; once per page.

    It works under a policy that allows inline scripts and styles and nothing else. What needs Python is left out, and
    said to be.

    Parameters
    ----------
    data
        What is shown.
    """
    text = json.dumps(replace(data, live=None).to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # No label can end the script, nor begin a comment in it.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return _FRAGMENT.substitute(data=text, script=script() + _SHIM)


def write_explorer(data: ExplorerData, path: str | Path) -> Path:
    """Write the explorer as a page of its own.

    Parameters
    ----------
    data
        What is shown.
    path
        The HTML file.

    Raises
    ------
    OutputError
        If its folder cannot be written.
    """
    title = html.escape(f"Explorer: {data.title}", quote=True)
    return write_text(Path(path), _PAGE.substitute(title=title, fragment=explorer_fragment(data)))
