"""The pages that figures are shown on: templates, style and the script that sorts tables.

Whoever fills a template escapes what is put in; the templates themselves load nothing from elsewhere.
"""

from __future__ import annotations

import json
from string import Template

from workbench.figures.style import DARK

# Nothing may be fetched, whatever a label holds. Plotly builds WebGL programs with `Function`, hence unsafe-eval.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
)

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f8; --card: #ffffff; --ink: #1b1b1f; --quiet: #55555e; --rule: #d5d5db; --accent: #1f4e79;
  --stripe: #f3f4f7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16171b; --card: #202228; --ink: #ececf0; --quiet: #a9abb5; --rule: #3a3d46; --accent: #8fc1f0;
    --stripe: #262931;
  }
}
* { box-sizing: border-box; }
@media screen and (prefers-color-scheme: dark) { .plot.plot { background: var(--card); } }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
}
main, header, nav { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.85rem; line-height: 1.2; margin: 0 0 .75rem; text-wrap: balance; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: .5rem; border-top: 2px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; }
p, li, dd { max-width: 78ch; overflow-wrap: anywhere; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.question { font-size: 1.1rem; color: var(--quiet); margin: 0 0 1rem; }
.answers { margin: 0 0 1.25rem; padding: .9rem 1.1rem .9rem 2.2rem; background: var(--card);
  border: 1px solid var(--rule); border-left: 5px solid var(--accent); border-radius: 6px; font-size: 1.05rem; }
.answers li + li { margin-top: .35rem; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.25rem; margin: 0; }
dl.facts dt { color: var(--quiet); }
dl.facts dd { margin: 0; max-width: 96ch; }
nav { margin-top: 1.25rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: 0; list-style: none; }
figure { margin: 0 0 2rem; }
figcaption { max-width: 78ch; margin-top: .6rem; }
.plot { background: #ffffff; border: 1px solid var(--rule); border-radius: 6px; padding: .75rem;
  overflow-x: auto; }
.plot > div { min-width: 46rem; }
.command { color: var(--quiet); margin: .6rem 0 0; font-size: .9rem; }
pre { margin: .25rem 0 0; padding: .55rem .8rem; background: var(--stripe); color: var(--ink);
  border: 1px solid var(--rule); border-radius: 6px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
code, pre { font: .875rem/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.scroll { max-height: 27rem; overflow: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
.sortable td { white-space: nowrap; }
.sortable td.long { white-space: normal; min-width: 18rem; }
.sortable .number { text-align: right; }
thead th { position: sticky; top: 0; background: var(--stripe); padding: 0; white-space: nowrap; }
thead button { width: 100%; padding: .4rem .7rem; border: 0; background: none; color: inherit; font: inherit;
  font-weight: 600; text-align: inherit; cursor: pointer; }
thead button:focus-visible { outline-offset: -3px; }
thead button::after { content: " \\2195"; color: var(--quiet); opacity: .55; }
th[aria-sort="ascending"] button::after { content: " \\2191"; opacity: 1; color: var(--accent); }
th[aria-sort="descending"] button::after { content: " \\2193"; opacity: 1; color: var(--accent); }
tbody tr:nth-child(even) { background: var(--stripe); }
.on-paper { display: none; }
.note { color: var(--quiet); font-size: .9rem; margin: .25rem 0 .5rem; }
.search { margin: 0 0 .5rem; font-size: .9rem; color: var(--quiet); }
.search input { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--rule); border-radius: 4px;
  padding: .2rem .5rem; margin-left: .35rem; }
.provenance th { font-weight: 600; white-space: nowrap; }
.provenance td { overflow-wrap: anywhere; }
footer { padding: 2rem 1.25rem; }
@media (max-width: 40rem) { dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: .5rem; } }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --quiet: #333; --rule: #bbb; --accent: #1f4e79; --stripe: #f4f4f4; }
  body { font-size: 10.5pt; }
  nav, .search, thead button::after { display: none; }
  main, header { max-width: none; padding: 0; }
  figure, tr, .answers { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .plot { border: 0; padding: 0; overflow: hidden; }
  .plot > div { min-width: 0; }
  .scroll { max-height: none; overflow: visible; border: 0; }
  .modebar { display: none; }
  .command { break-after: avoid; }
  .on-paper { display: inline; }
  .sortable tbody tr:nth-child(n + 41) { display: none; }
  table { font-size: 6.5pt; }
  .sortable td, thead th, thead button { white-space: normal; overflow-wrap: anywhere; }
  .sortable td.number { white-space: nowrap; }
  .sortable td.long { min-width: 0; }
  th, td, thead button { padding: .15rem .2rem; }
  thead th { position: static; }
}
"""

# The same replacement as `style.in_dark`, in the page: figures follow the reader's theme, and are light on paper.
THEME_SCRIPT = (
    """
"use strict";
var figureTheme = (function () {
  var dark = window.matchMedia("(prefers-color-scheme: dark)"), colors = """
    + json.dumps(DARK)
    + """;
  function plots() { return Array.from(document.querySelectorAll(".js-plotly-plot")); }
  function darkened(value, key) {
    if (typeof value === "string") {
      return colors[value] || value.replace(/color:(#[0-9a-f]{6})/g, function (all, color) {
        return "color:" + (colors[color] || color);
      });
    }
    if (key === "colorscale" || value === null || typeof value !== "object" || ArrayBuffer.isView(value)) { return value; }
    if (Array.isArray(value)) { return value.map(function (one) { return darkened(one); }); }
    var out = {};
    Object.keys(value).forEach(function (name) { out[name] = darkened(value[name], name); });
    return out;
  }
  function paint(onDark) {
    plots().forEach(function (plot) {
      if (!plot.inLight) { plot.inLight = { data: plot.data, layout: plot.layout }; }
      if (Boolean(plot.isDark) === onDark) { return; }
      plot.isDark = onDark;
      var data = onDark ? darkened(plot.inLight.data) : plot.inLight.data;
      var layout = onDark ? darkened(plot.inLight.layout) : plot.inLight.layout;
      Plotly.react(plot, data, layout);
    });
  }
  dark.addEventListener("change", function () { paint(dark.matches); });
  paint(dark.matches);
  return { paint: paint, now: function () { paint(dark.matches); }, plots: plots };
})();
"""
)

SCRIPT = """
"use strict";
(function () {
  // Sorting: a click or Enter on a header; numbers by value, text by locale, missing values always last.
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var headers = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
    headers.forEach(function (header, column) {
      header.querySelector("button").addEventListener("click", function () {
        var down = header.getAttribute("aria-sort") === "ascending", numeric = header.classList.contains("number");
        var keyed = Array.from(body.rows).map(function (row) {
          var cell = row.cells[column];
          var raw = cell.hasAttribute("data-value") ? cell.dataset.value : cell.textContent.trim();
          var key = numeric ? parseFloat(raw) : raw;
          return { row: row, key: key, empty: numeric ? Number.isNaN(key) : raw === "" };
        });
        keyed.sort(function (a, b) {
          if (a.empty || b.empty) { return a.empty - b.empty; }
          var order = numeric ? a.key - b.key : a.key.localeCompare(b.key, undefined, { numeric: true });
          return down ? -order : order;
        });
        headers.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
        header.setAttribute("aria-sort", down ? "descending" : "ascending");
        keyed.forEach(function (item) { body.appendChild(item.row); });
      });
    });
  });
  // Searching: rows that hold every word stay; the number of them is said.
  document.querySelectorAll(".search input").forEach(function (field) {
    var body = document.getElementById(field.getAttribute("aria-controls")).tBodies[0];
    var said = field.closest("p").querySelector("[role=status]");
    field.addEventListener("input", function () {
      var words = field.value.toLowerCase().split(/\\s+/).filter(Boolean), kept = 0;
      Array.from(body.rows).forEach(function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (word) { return text.includes(word); });
        kept += row.hidden ? 0 : 1;
      });
      said.textContent = words.length ? kept + " of " + body.rows.length + " rows" : "";
    });
  });
  // Paper is white, and narrower than a window: figures are drawn again at its width.
  window.addEventListener("beforeprint", function () {
    figureTheme.paint(false);
    figureTheme.plots().forEach(function (plot) { Plotly.relayout(plot, { width: 690, autosize: false }); });
  });
  window.addEventListener("afterprint", function () {
    figureTheme.plots().forEach(function (plot) { Plotly.relayout(plot, { width: null, autosize: true }); });
    figureTheme.now();
  });
})();
"""

REPORT = Template(f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>$title</title>
<style>{STYLE}</style>
<script id="plotly">$plotly</script>
</head>
<body>
<header>
<h1>$title</h1>
<section id="summary" aria-label="Summary">
<p class="question">$question</p>
<ul class="answers" aria-label="Answer">
$answers
</ul>
<dl class="facts">
$facts
</dl>
</section>
</header>
<nav aria-label="Sections"><ul>
<li><a href="#figures">Figures</a></li>
$explorer_link
<li><a href="#skipped">What was skipped</a></li>
<li><a href="#cautions">What could be wrong</a></li>
<li><a href="#tables">Tables</a></li>
<li><a href="#provenance">Provenance</a></li>
</ul></nav>
<main>
<section id="figures" aria-labelledby="figures-heading">
<h2 id="figures-heading">Figures</h2>
$figures
</section>
$explorer
<section id="skipped" aria-labelledby="skipped-heading">
<h2 id="skipped-heading">What was skipped, and why</h2>
$skipped
</section>
<section id="cautions" aria-labelledby="cautions-heading">
<h2 id="cautions-heading">What could be wrong with this</h2>
$cautions
</section>
<section id="tables" aria-labelledby="tables-heading">
<h2 id="tables-heading">Tables</h2>
<p class="note">A click on a header, or Enter on it, sorts by that column.
<span class="on-paper">On paper, at most 40 rows of each.</span></p>
$tables
</section>
<section id="provenance" aria-labelledby="provenance-heading">
<h2 id="provenance-heading">Provenance</h2>
$provenance
</section>
</main>
<footer></footer>
<script>{THEME_SCRIPT.replace("$", "$$")}</script>
<script>{SCRIPT}</script>
</body>
</html>
""")

FIGURE_PAGE = Template(f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem; background: #ffffff; }}
@media screen and (prefers-color-scheme: dark) {{ body {{ background: #202228; }} }}
</style>
<script src="$plotly"></script>
</head>
<body>
<div role="img" aria-label="$alt">
$figure
</div>
<script>{THEME_SCRIPT.replace("$", "$$")}</script>
</body>
</html>
""")

FIGURE = Template("""<figure id="figure-$name" aria-labelledby="figure-$name-heading">
<h3 id="figure-$name-heading">$heading</h3>
<div class="plot" role="img" aria-label="$alt">
<div>$figure</div>
</div>
<figcaption>$caption
<p class="command">Reproduce with:</p>
<pre><code>$command</code></pre>
</figcaption>
</figure>""")

TABLE = Template("""<section aria-labelledby="table-$name-heading">
<h3 id="table-$name-heading">$heading</h3>
<p class="note">$note</p>
<p class="search"><label>Search in these rows <input type="search" aria-controls="table-$name"></label>
<span role="status" aria-live="polite"></span></p>
<div class="scroll" role="region" tabindex="0" aria-labelledby="table-$name-heading">
<table class="sortable" id="table-$name">
<thead><tr>
$head
</tr></thead>
<tbody>
$body
</tbody>
</table>
</div>
</section>""")

PROVENANCE = Template("""<table class="provenance">
<thead hidden><tr><th scope="col">what</th><th scope="col">value</th></tr></thead>
<tbody>
$rows
</tbody>
</table>""")
