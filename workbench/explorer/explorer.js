// The explorer, for a notebook (anywidget calls `render`) and for a page (a shim calls it): no library, no network.
// Everything from the data goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const LIGHT = `--ink: #1b1b1f; --quiet: #55555e; --rule: #d5d5db; --card: #ffffff; --stripe: #f3f4f7; --accent: #1f4e79;
  --on-accent: #ffffff; --off: #c9c9d0; --warn: #9c2b1f; --ground: #f6f6f8; color-scheme: light;`;
const DARK = `--ink: #ececf0; --quiet: #a9abb5; --rule: #3a3d46; --card: #202228; --stripe: #2a2d36; --accent: #8fc1f0;
  --on-accent: #16171b; --off: #4a4d57; --warn: #ff9c8f; --ground: #16171b; color-scheme: dark;`;
// A notebook says which theme it has; a page leaves it to the system.
const SAYS_LIGHT = ['[data-jp-theme-light="true"]', ".vscode-light", ".vscode-high-contrast-light", '[data-theme="light"]'];
const SAYS_DARK = ['[data-jp-theme-light="false"]', ".vscode-dark", ".vscode-high-contrast", '[data-theme="dark"]'];

function themed(ancestors, colors, own) {
  const inside = (what) => ancestors.map((a) => `${a} ${what}`).join(", ");
  return `${inside(".wbx")} { ${colors} } ${inside(".wbx .hue")} { --hue: var(${own}); }`;
}

const STYLE = `
.wbx { ${LIGHT} color: var(--ink); background: var(--ground); padding: 8px; border-radius: 6px;
  container-type: inline-size; position: relative;
  font: 14px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.wbx .hue { --hue: var(--on-light); }
@media (prefers-color-scheme: dark) { .wbx { ${DARK} } .wbx .hue { --hue: var(--on-dark); } }
${themed(SAYS_LIGHT, LIGHT, "--on-light")}
${themed(SAYS_DARK, DARK, "--on-dark")}
@media print { .wbx { ${LIGHT} } .wbx .hue { --hue: var(--on-light); } }
.wbx * { box-sizing: border-box; }
.wbx [hidden] { display: none !important; }
.wbx .wbx-columns, .wbx .wbx-factors, .wbx .wbx-two { display: grid; gap: 12px; grid-template-columns: minmax(0, 1fr); }
.wbx .wbx-card { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 12px 14px; min-width: 0; }
.wbx .wbx-card + .wbx-card { margin: 0; }
.wbx .wbx-head { margin-top: 12px; }
@container (min-width: 760px) {
  .wbx .wbx-columns { grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); }
  .wbx .wbx-factors, .wbx .wbx-two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@container (min-width: 1100px) { .wbx .wbx-factors { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
.wbx h3 { font-size: 16px; line-height: 1.3; margin: 0 0 6px; padding: 0; border: 0; }
.wbx h4 { font-size: 14px; line-height: 1.3; margin: 18px 0 4px; }
.wbx h5 { font-size: 13.5px; line-height: 1.3; margin: 0 0 4px; }
.wbx p { margin: 4px 0 8px; max-width: 88ch; overflow-wrap: anywhere; }
.wbx .wbx-quiet { color: var(--quiet); font-size: 13px; }
.wbx .wbx-unseen { position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.wbx .wbx-error { color: var(--warn); font-weight: 600; }
.wbx dl { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 10px; font-size: 13px; }
.wbx dl div { display: flex; gap: 6px; min-width: 0; }
/* Notebooks style definition lists of their own: floated terms, indented descriptions. */
.wbx.wbx dl dt { float: none; clear: none; width: auto; flex: none; display: block; margin: 0; padding: 0;
  color: var(--quiet); font-weight: 400; }
.wbx.wbx dl dd { float: none; width: auto; margin: 0; padding: 0; overflow-wrap: anywhere; }
.wbx ul { margin: 4px 0; padding: 0 0 0 18px; }
.wbx li { overflow-wrap: anywhere; }
.wbx :focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
.wbx button, .wbx select { font: inherit; color: var(--ink); background: var(--stripe); border: 1px solid var(--rule);
  border-radius: 5px; padding: 3px 9px; min-height: 28px; max-width: 100%; }
.wbx button { cursor: pointer; }
.wbx button:hover:not(:disabled) { border-color: var(--accent); }
.wbx button:disabled { opacity: 0.55; cursor: default; }
.wbx button.wbx-main { background: var(--accent); color: var(--on-accent); border-color: var(--accent); font-weight: 600; }
.wbx label { display: inline-flex; gap: 6px; align-items: baseline; cursor: pointer; }
.wbx input { accent-color: var(--accent); margin: 0; flex: none; }
.wbx fieldset { border: 0; margin: 10px 0 0; padding: 0; min-width: 0; }
.wbx legend { padding: 0; font-weight: 600; }
.wbx .wbx-row { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; margin: 6px 0; }
.wbx .wbx-row select { min-width: 0; }
.wbx .wbx-scroll { overflow-x: auto; }
.wbx table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: auto; margin: 4px 0;
  background: none; color: inherit; border: 0; }
.wbx th, .wbx td { padding: 3px 10px 3px 0; text-align: left; vertical-align: top; border: 0;
  border-bottom: 1px solid var(--rule); background: none; white-space: normal; }
.wbx thead th { position: static; font-weight: 600; color: var(--quiet); padding: 3px 10px 3px 0; }
.wbx tbody tr, .wbx tbody tr:hover, .wbx tbody tr:nth-child(even) { background: none; }
.wbx td.wbx-number, .wbx th.wbx-number { text-align: right; white-space: nowrap; }
.wbx table.wbx-grid { border-collapse: separate; border-spacing: 2px; margin: 0 4px 4px 0; }
.wbx .wbx-grid th { border: 0; padding: 0 6px 0 0; font-weight: 400; color: var(--quiet); text-align: right;
  white-space: nowrap; vertical-align: middle; }
.wbx .wbx-grid thead th, .wbx .wbx-grid tfoot th { text-align: center; padding: 0; }
.wbx .wbx-grid td { border: 0; border-radius: 3px; min-width: 42px; width: 56px; height: 30px; padding: 0 4px;
  text-align: center; vertical-align: middle; cursor: pointer; white-space: nowrap; }
.wbx .wbx-grid td.wbx-none { background: var(--stripe); color: var(--quiet); }
.wbx .wbx-grid td.wbx-sure { font-weight: 700; }
.wbx .wbx-grid td[aria-selected="true"] { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--ink); position: relative; }
.wbx .wbx-grid td:focus-visible { outline-offset: 4px; position: relative; z-index: 1; }
.wbx .wbx-bar { display: flex; align-items: center; gap: 8px; margin: 8px 0 2px; font-size: 12.5px; color: var(--quiet); }
.wbx .wbx-bar i { flex: 0 1 160px; height: 11px; border-radius: 3px; border: 1px solid var(--rule); }
.wbx svg { display: block; width: 100%; height: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 5px; }
.wbx svg text { fill: var(--quiet); font: 11px system-ui, sans-serif; }
.wbx svg .hue > * { fill: var(--hue); stroke: var(--card); stroke-width: 0.5; fill-opacity: 0.85; }
.wbx svg .wbx-off > * { fill: var(--off); fill-opacity: 0.35; stroke: none; }
.wbx svg.wbx-moved .hue > * { fill-opacity: 0.35; }
.wbx svg .wbx-arrow { stroke: var(--ink); stroke-width: 1.1; fill: none; }
.wbx svg .wbx-arrow.wbx-null { stroke: var(--quiet); stroke-width: 0.9; stroke-dasharray: 3 2; }
.wbx svg.wbx-layers { min-width: 460px; max-width: 680px; }
.wbx svg .wbx-line { fill: none; stroke: var(--quiet); stroke-width: 1.4; }
.wbx svg .wbx-line.wbx-own { stroke: var(--accent); stroke-width: 2.2; }
.wbx svg .wbx-axis { stroke: var(--rule); stroke-width: 1; fill: none; }
.wbx svg .wbx-base { fill: var(--quiet); fill-opacity: 0.13; stroke: none; }
.wbx svg .wbx-dot { fill: var(--quiet); }
.wbx svg .wbx-dot.wbx-own { fill: var(--accent); }
.wbx svg text.wbx-own { fill: var(--accent); stroke: none; font-weight: 600; }
.wbx .wbx-labels { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 2px 12px;
  max-height: 16em; overflow: auto; padding: 2px; }
.wbx .wbx-swatch { width: 11px; height: 11px; border-radius: 50%; background: var(--hue); flex: none; align-self: center; }
.wbx .wbx-square { border-radius: 0; }
.wbx .wbx-labels label { align-items: flex-start; }
.wbx .wbx-labels label > span:last-child { overflow-wrap: anywhere; }
.wbx .wbx-labels input, .wbx .wbx-labels .wbx-swatch { margin-top: 4.5px; align-self: flex-start; }

.wbx .wbx-factor { border: 1px solid var(--rule); border-radius: 5px; padding: 9px 11px; min-width: 0; }
.wbx .wbx-genes { overflow-wrap: anywhere; margin: 0 0 2px; }
.wbx .wbx-genes em { font-style: italic; color: var(--quiet); }
.wbx .wbx-factor ul { font-size: 13px; }
`;

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
}

function count(n, what) {
  return `${number(n)} ${what}${n === 1 ? "" : "s"}`;
}

function percent(share) {
  return share === null || share === undefined ? "–" : `${Number((100 * share).toPrecision(2))} %`;
}

function colorOf(measure, value) {
  const [low, high] = measure.limits;
  const t = Math.min(Math.max((value - low) / (high - low || 1), 0), 1) * (measure.scale.length - 1);
  const at = Math.min(Math.floor(t), measure.scale.length - 2);
  const parts = [measure.scale[at], measure.scale[at + 1]].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return parts[0].map((one, i) => Math.round(one + (t - at) * (parts[1][i] - one)));
}

function inkOn(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2 ? "#1b1b1e" : "#ffffff";
}

// What is known of a head by one measure, as cells of a row: value, spread, null, n, p, q.
function scoreCells(measure, row) {
  if (!row) return ["not in the table", "", "", "", "", ""];
  if (measure.kind === "score") {
    return [
      number(row.value),
      `sd ${number(row.sd)} over ${count(row.n_splits, "split")}`,
      (row.without_sequencing === undefined ? "" : `without what follows sequencing ${number(row.without_sequencing)}: `) +
        `97.5 % below ${number(row.null_high)} (${count(row.n_null, "draw")}, all heads)`,
      count(row.n_anchors, "anchor"),
      number(row.p),
      number(row.q),
    ];
  }
  return [
    number(row.value) + (measure.unit ? ` ${measure.unit}` : ""),
    `${number(row.low)} to ${number(row.high)} (95 %)`,
    row.n_null ? `${number(row.null_low)} to ${number(row.null_high)} (all ${count(row.n_null, "draw")} of this head)` : "none",
    count(row.n_cells, "cell"),
    number(row.p),
    number(row.q),
  ];
}

function headsCard(data, state, uid, choose) {
  const [layers, heads] = data.shape;
  const cells = [];
  const body = h("tbody", { role: "rowgroup" });
  for (let layer = layers - 1; layer >= 0; layer -= 1) {
    const row = h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row" }, `layer ${layer}`));
    for (let head = 0; head < heads; head += 1) {
      const at = layer * heads + head;
      const cell = h("td", { role: "gridcell", tabindex: "-1", "data-head": data.heads[at].name, click: () => choose(at) });
      cells[at] = cell;
      row.append(cell);
    }
    body.append(row);
  }
  const names = Array.from({ length: heads }, (_, i) => h("th", { role: "columnheader", scope: "col" }, `head ${i}`));
  const top = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, h("td", { role: "presentation", style: "visibility: hidden" }), names));
  const grid = h("table", { class: "wbx-grid", role: "grid", "aria-label": "Heads by layer" }, top, body);
  const place = (at) => {
    cells.forEach((cell, i) => cell.setAttribute("tabindex", i === at ? "0" : "-1"));
  };
  grid.addEventListener("keydown", (event) => {
    const at = cells.indexOf(event.target);
    if (at < 0) return;
    const row = Math.floor(at / heads);
    const column = at % heads;
    const to = {
      ArrowLeft: [row, Math.max(column - 1, 0)],
      ArrowRight: [row, Math.min(column + 1, heads - 1)],
      ArrowUp: [Math.min(row + 1, layers - 1), column],
      ArrowDown: [Math.max(row - 1, 0), column],
      Home: [row, 0],
      End: [row, heads - 1],
    }[event.key];
    if (to) {
      place(to[0] * heads + to[1]);
      cells[to[0] * heads + to[1]].focus();
    } else if (event.key === "Enter" || event.key === " ") choose(at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const bar = h("div", { class: "wbx-bar" });
  const note = h("p", { class: "wbx-quiet" });
  const update = () => {
    const measure = data.measures[state.measure];
    let sure = 0;
    cells.forEach((cell, at) => {
      const row = measure.rows[at];
      const known = row && row.value !== null;
      cell.textContent = known ? (row.value * measure.factor).toFixed(measure.decimals).replace(/^-(0(\.0*)?)$/, "$1") : "–";
      cell.classList.toggle("wbx-none", !known);
      const bold = Boolean(known && row.q !== null && row.q !== undefined && row.q <= data.alpha);
      cell.classList.toggle("wbx-sure", bold);
      sure += bold;
      const rgb = known ? colorOf(measure, row.value) : null;
      cell.style.background = rgb ? `rgb(${rgb.join(", ")})` : "";
      cell.style.color = rgb ? inkOn(rgb) : "";
      cell.setAttribute("aria-selected", String(at === state.head));
      const said = known ? `${number(row.value)}${"q" in row ? `, q ${number(row.q)}` : ""}` : "no value";
      cell.setAttribute("aria-label", `layer ${data.heads[at].layer} head ${data.heads[at].head}: ${said}`);
      cell.setAttribute("title", `${data.heads[at].name}: ${said}`);
    });
    place(state.head);
    const [low, high] = measure.limits;
    const scale = h("i", { "aria-hidden": "true" });
    scale.style.background = `linear-gradient(90deg, ${measure.scale.join(", ")})`;
    bar.replaceChildren(number(low * measure.factor), scale, number(high * measure.factor), h("span", {}, measure.title));
    const known = measure.rows.filter((row) => row && row.value !== null).length;
    const tested = measure.rows.some((row) => row && "q" in row);
    note.textContent =
      `n = ${count(known, "head")}${known < cells.length ? ` of ${cells.length}; the others are not in the table` : ""}.` +
      (tested ? ` Bold: q ≤ ${data.alpha} (Benjamini-Hochberg over heads), ${sure} of ${known}.` : "");
  };
  const options = data.measures.map((one, i) => h("option", { value: i }, one.name));
  const select = h("select", { id: `${uid}-measure` }, options);
  select.addEventListener("change", () => {
    state.measure = Number(select.value);
    update();
  });
  const card = h(
    "div",
    { class: "wbx-card" },
    h("h3", {}, "Heads"),
    h("div", { class: "wbx-row" }, h("label", { for: `${uid}-measure` }, "colour by"), select),
    h("div", { class: "wbx-scroll" }, grid),
    bar,
    note,
  );
  return { card, update };
}

function pairsPart(data, head) {
  const averaged = data.kind === "attention";
  const seen = averaged ? ` that at least ${count(data.min_cells, "cell")} have` : "";
  const column = (text, right) => h("th", { scope: "col", class: right ? "wbx-number" : null }, text);
  const line = ([query, key, value, cells]) =>
    h(
      "tr",
      {},
      h("td", {}, data.genes[query]),
      h("td", {}, "→ ", data.genes[key]),
      h("td", { class: "wbx-number" }, number(value)),
      averaged ? h("td", { class: "wbx-number" }, number(cells)) : null,
    );
  const one = (name, title, about) => {
    const rows = head.pairs[name];
    const columns = [column("query"), column("key"), column("value", true), averaged ? column("n cells", true) : null];
    const table = h("table", { class: `wbx-pairs wbx-${name}` }, h("thead", {}, h("tr", {}, columns)), h("tbody", {}, rows.map(line)));
    const empty = h("p", {}, `There is no pair of different genes${seen}.`);
    const note = h("p", { class: "wbx-quiet" }, about);
    return h("div", {}, h("h5", {}, title), note, rows.length ? h("div", { class: "wbx-scroll" }, table) : empty);
  };
  const raw = {
    attention: "Mean attention of the query gene to the key gene.",
    qk: "Attention score of the query gene for the key gene, from the weights alone.",
    ov: "What the value of the first gene writes along the second, from the weights alone.",
  }[data.kind];
  const specific = "The same less what all query genes share: difference from the mean of the key gene's column.";
  const text = `The ${head.pairs.raw.length} largest by size of ${count(head.pairs.n_pairs, "pair")} of different genes${seen}.`;
  return [
    h("h4", {}, "Strongest gene pairs"),
    h("p", { class: "wbx-quiet" }, text),
    h("div", { class: "wbx-two" }, one("raw", "As they are", raw), one("specific", "Specific", specific)),
  ];
}

function genesLine(data, loadings) {
  const parts = [];
  loadings.forEach(([gene, loading], i) => {
    if (i) parts.push(", ");
    const text = `${loading < 0 ? "−" : ""}${data.genes[gene]}`;
    parts.push(h(loading < 0 ? "em" : "span", { title: `loading ${number(loading)}` }, text));
  });
  return h("p", { class: "wbx-genes" }, parts);
}

function programsOf(data, found) {
  if (!found) return [];
  if (!found.rows.length) {
    const text = `no program with q ≤ ${data.alpha} in ${count(found.n, "test")} (smallest q ${number(found.least)})`;
    return [h("p", { class: "wbx-quiet" }, text)];
  }
  const terms = data.programs.terms;
  const items = found.rows.map(([term, direction, overlap, n, p, q, genes]) => {
    const sign = direction === "-" ? ", negative loadings" : "";
    const text = `: ${overlap} of its ${terms[term].n} genes among ${n}${sign}, q ${number(q)}`;
    const listed = genes.map((gene) => data.genes[gene]).join(", ");
    const title = `${terms[term].source}; p ${number(p)}`;
    return h("li", { title }, h("strong", {}, terms[term].term), text, h("span", { class: "wbx-quiet" }, ` (${listed})`));
  });
  const more = found.hits > found.rows.length ? h("li", { class: "wbx-quiet" }, `and ${found.hits - found.rows.length} more with q ≤ ${data.alpha}`) : null;
  return [h("ul", {}, items, more)];
}

function factorsPart(data, head) {
  const title = h("h4", {}, "Factors (singular vectors), with the genes that they read and write");
  if (!head.factors.length) return [title, h("p", {}, `No factor was made: ${head.no_factors}`)];
  const all = data.programs;
  const notes = [
    h("p", { class: "wbx-quiet" }, "The ten largest loadings by size on each side; a minus sign is a negative loading, and the signs of a factor may be turned together."),
  ];
  if (all.n_tests) {
    const own = head.hits;
    notes.push(
      h(
        "p",
        { class: "wbx-quiet" },
        `Programs: over-representation of ${count(all.terms.length, "gene set")} ('${all.collection}'; ${all.n_left_out} more have too few ` +
          `genes on the panel) among the ${all.n_list} largest loadings of each sign, the panel of ${number(all.n_genes)} genes being the ` +
          `background; q: Benjamini-Hochberg over the ${number(all.n_tests)} tests of all heads. With q ≤ ${data.alpha}: ` +
          (own ? `${number(own[1])} of this head's ${number(own[0])} tests (gene names shuffled, ${count(all.null.draws, "draw")}: ${own[2]} to ${own[3]}); ` : "") +
          `${number(all.n_hits)} in all (shuffled: ${number(all.null.low)} to ${number(all.null.high)}). The genes of a program go together in ` +
          "any factor of expression: a small q says what a factor's genes are, not that the model has learnt the program.",
      ),
    );
  }
  const cards = head.factors.map((factor) =>
    h(
      "div",
      { class: "wbx-factor" },
      h("h5", {}, `${factor.name}: strength ${number(factor.strength)}, ${percent(factor.share)} of the operator's sum of squares`),
      ["read", "write"].map((side) => [
        h("div", { class: "wbx-quiet" }, side === "read" ? "reads" : "writes"),
        genesLine(data, factor[side]),
        programsOf(data, factor.programs[side]),
      ]).flat(2),
    ),
  );
  return [title, ...notes, h("div", { class: "wbx-factors" }, cards)];
}

function headCard(data, state) {
  const card = h("section", { class: "wbx-card wbx-head", "aria-live": "off" });
  const update = () => {
    const head = data.heads[state.head];
    const rows = data.measures
      .filter((measure) => measure.kind !== "norm")
      .map((measure) => {
        const values = scoreCells(measure, measure.rows[state.head]);
        return h("tr", {}, h("th", { scope: "row" }, measure.name), values.map((text) => h("td", {}, text)));
      });
    const columns = ["", "value", "spread", "null", "n", "p", "q"].map((text) => h("th", { scope: "col" }, text));
    const table = h("table", { class: "wbx-scores" }, h("thead", {}, h("tr", {}, columns)), h("tbody", {}, rows));
    const lacking = data.missing
      .filter(([what]) => what === "score" || what === "ablation")
      .map(([what, why]) => h("p", { class: "wbx-quiet" }, `No ${what}: ${why}`));
    card.setAttribute("aria-label", `Head ${head.name}`);
    card.replaceChildren(
      h("h3", { class: "wbx-title" }, `${head.name}: layer ${head.layer}, head ${head.head}`),
      h("p", { class: "wbx-quiet" }, `Size of its operator (Frobenius norm): ${number(head.norm)}.`),
      rows.length ? h("div", { class: "wbx-scroll" }, table) : "",
      ...lacking,
      ...pairsPart(data, head),
      ...factorsPart(data, head),
    );
  };
  return { card, update };
}

const WIDTH = 480;
const HEIGHT = 380;
const EDGE = 24;
const LENGTHS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

function frameOf(map) {
  const range = (values) => {
    let low = Infinity;
    let high = -Infinity;
    for (const v of values) {
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
    return [low, high - low || 1];
  };
  const [x0, dx] = range(map.x);
  const [y0, dy] = range(map.y);
  const place = (x, y) => [EDGE + ((x - x0) / dx) * (WIDTH - 2 * EDGE), HEIGHT - EDGE - ((y - y0) / dy) * (HEIGHT - 2 * EDGE)];
  return { place };
}

function arrowPath([x0, y0], [x1, y1]) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (!length) return `M${x0} ${y0}`;
  const size = Math.min(6, length / 2);
  const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
  const wing = (turn) => `${(x1 - size * (ux * 0.87 - turn * uy * 0.5)).toFixed(2)} ${(y1 - size * (uy * 0.87 + turn * ux * 0.5)).toFixed(2)}`;
  const end = `${x1.toFixed(2)} ${y1.toFixed(2)}`;
  return `M${x0.toFixed(2)} ${y0.toFixed(2)}L${end}M${wing(1)}L${end}L${wing(-1)}`;
}

function cellsCard(data, state, uid, result) {
  const card = h("div", { class: "wbx-card" }, h("h3", {}, "Cells"));
  if (!data.maps.length) {
    const why = data.missing.filter(([what]) => what === "cells").map(([, why]) => why);
    card.append(h("p", {}, `No cells are shown: ${why.join(" ") || "none were given."}`));
    return { card, update() {}, show() {} };
  }
  const select = h("select", { id: `${uid}-map` }, data.maps.map((map, i) => h("option", { value: i }, map.name)));
  const name = h("p", { class: "wbx-quiet" });
  const chart = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const said = h("p", { class: "wbx-n", role: "status" });
  const labels = h("div", { class: "wbx-labels" });
  const layers = { groups: new Map(), arrows: s("g") };

  const counts = (map) => {
    const n = new Array(map.groups.length).fill(0);
    map.group.forEach((g) => (n[g] += 1));
    return n;
  };
  const update = () => {
    const map = data.maps[state.map];
    const n = counts(map);
    const there = map.groups.filter((_, i) => n[i]);
    const chosen = there.filter((group) => !state.off.has(group.label));
    map.groups.forEach((group, i) => {
      const node = layers.groups.get(i);
      if (node) node.classList.toggle("wbx-off", state.off.has(group.label));
    });
    const total = map.groups.reduce((sum, group, i) => sum + (state.off.has(group.label) ? 0 : n[i]), 0);
    said.textContent =
      `n = ${number(total)} of ${count(map.x.length, "cell")} chosen, ${chosen.length} of ${count(there.length, "label")}.` +
      (map.x.length < map.n_total ? ` Shown are ${number(map.x.length)} of ${count(map.n_total, "cell")}, drawn by seed ${map.seed}.` : "") +
      (map.n_without_place ? ` ${count(map.n_without_place, "cell")} without a place are not drawn.` : "");
    chart.setAttribute("aria-label", `${map.name}: ${said.textContent}`);
    arrows();
  };
  const arrows = () => {
    layers.arrows.replaceChildren();
    const map = data.maps[state.map];
    const shift = state.result;
    const here = Boolean(shift && data.live && map.key === data.live.map);
    chart.classList.toggle("wbx-moved", here);
    if (!here) return;
    const { place } = frameOf(map);
    const factor = state.length;
    const draw = (ends, kind) =>
      shift.rows.forEach((row, i) => {
        if (state.off.has(map.groups[map.group[row]].label)) return;
        const [from, to] = [shift.start[i], ends[i]];
        const end = from.map((v, axis) => v + factor * (to[axis] - v));
        layers.arrows.append(s("path", { class: `wbx-arrow ${kind}`, d: arrowPath(place(...from), place(...end)) }));
      });
    if (state.null) draw(shift.null_end, "wbx-null");
    draw(shift.end, "");
  };
  const draw = () => {
    const map = data.maps[state.map];
    const { place } = frameOf(map);
    const radius = map.x.length > 2000 ? 1.8 : map.x.length > 600 ? 2.6 : 3.6;
    layers.groups.clear();
    const nodes = map.groups.map((group, i) => {
      const node = s("g", { class: "hue", style: `--on-light: ${group.light}; --on-dark: ${group.dark}` });
      layers.groups.set(i, node);
      return node;
    });
    const n = counts(map);
    map.x.forEach((x, i) => {
      const [cx, cy] = place(x, map.y[i]);
      const group = map.groups[map.group[i]];
      const rare = n[map.group[i]] < map.x.length / map.groups.length / 4;
      const about = s("title", {}, `${map.ids[i]}: ${group.label} (n = ${n[map.group[i]]}), branch ${group.branch}`);
      const r = rare ? radius * 1.5 : radius;
      const mark =
        group.mark === "square"
          ? s("rect", { x: (cx - r).toFixed(1), y: (cy - r).toFixed(1), width: 2 * r, height: 2 * r }, about)
          : s("circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r }, about);
      layers.groups.get(map.group[i]).append(mark);
    });
    // Labels with few cells last, so that they stay on top.
    const order = nodes.map((node, i) => [n[i], node]).sort((a, b) => b[0] - a[0]);
    const across = s("text", { x: WIDTH - 6, y: HEIGHT - 6, "text-anchor": "end" }, `${map.axes[0]} →`);
    const up = s("text", { x: 6, y: 14 }, `↑ ${map.axes[1]}`);
    chart.replaceChildren(...order.map(([, node]) => node), layers.arrows, across, up);
    name.textContent = `${data.maps.length > 1 ? "" : `${map.name[0].toUpperCase()}${map.name.slice(1)}. `}Colour: branch. ${map.note}`;
    labels.replaceChildren(
      ...map.groups.map((group, i) => {
        if (!n[i]) return "";
        const box = h("input", { type: "checkbox", value: group.label });
        box.checked = !state.off.has(group.label);
        box.addEventListener("change", () => {
          state.off[box.checked ? "delete" : "add"](group.label);
          update();
        });
        const swatch = h("span", { class: `wbx-swatch wbx-${group.mark} hue`, style: `--on-light: ${group.light}; --on-dark: ${group.dark}`, "aria-hidden": "true" });
        return h("label", { title: `branch ${group.branch}` }, box, swatch, h("span", {}, `${group.label} (n = ${number(n[i])})`));
      }),
    );
    update();
  };
  select.addEventListener("change", () => {
    state.map = Number(select.value);
    draw();
  });
  const every = (on) => () => {
    data.maps[state.map].groups.forEach((group) => state.off[on ? "delete" : "add"](group.label));
    draw();
  };
  const show = (shift) => {
    state.result = shift;
    state.map = data.maps.findIndex((map) => map.key === data.live.map);
    select.value = String(state.map);
    const { place } = frameOf(data.maps[state.map]);
    const lengths = shift.start.map((from, i) => {
      const [a, b] = [place(...from), place(...shift.end[i])];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    });
    const middle = lengths.sort((a, b) => a - b)[Math.floor(lengths.length / 2)] || 0;
    state.length = LENGTHS.filter((factor) => middle * factor <= 36).pop() || 1;
    result.replaceChildren(...resultParts(data, shift, state, uid, arrows));
    draw();
  };
  const rows = data.maps.length > 1 ? [h("div", { class: "wbx-row" }, h("label", { for: `${uid}-map` }, "map"), select)] : [];
  card.append(
    ...rows,
    name,
    chart,
    said,
    h(
      "fieldset",
      {},
      h("legend", {}, "Cells by label"),
      h("div", { class: "wbx-row" }, h("button", { type: "button", click: every(true) }, "all"), h("button", { type: "button", click: every(false) }, "none")),
      labels,
    ),
  );
  return { card, update: draw, show };
}

function resultParts(data, shift, state, uid, redraw) {
  const drawn = shift.n < shift.n_chosen ? `${number(shift.n)} of the ${number(shift.n_chosen)} chosen cells, drawn by seed ${data.live.seed}` : `all ${count(shift.n, "chosen cell")}`;
  const mean = shift.how === "mean" ? ` Mean: of the same gene over the ${count(shift.n_reference, "shown cell")}.` : "";
  const null_ = shift.null;
  const head = h("tr", {}, ["label", "n", "mean", "sd"].map((text, i) => h("th", { scope: "col", class: i ? "wbx-number" : null }, text)));
  const lines = shift.by_label.map((row) =>
    h("tr", {}, h("td", {}, row.label), ["n", "mean", "sd"].map((key) => h("td", { class: "wbx-number" }, number(row[key])))),
  );
  const length = h("select", { id: `${uid}-length` }, LENGTHS.map((factor) => h("option", { value: factor }, factor === 1 ? "as they are" : `${factor} times as long`)));
  length.value = String(state.length);
  length.addEventListener("change", () => {
    state.length = Number(length.value);
    redraw();
  });
  const box = h("input", { type: "checkbox" });
  box.checked = state.null;
  box.addEventListener("change", () => {
    state.null = box.checked;
    redraw();
  });
  return [
    h("h4", {}, `${shift.heads.join(" + ")} ablated (${shift.how})`),
    h(
      "p",
      {},
      `In ${drawn}, embeddings turn by ${number(shift.mean)} on average (1 - cosine; sd ${number(shift.sd)} over n = ${count(shift.n, "cell")}). ` +
        `The same change turned in random directions: ${number(null_.mean)} (${number(null_.low)} to ${number(null_.high)} over ${count(null_.draws, "draw")}; ` +
        `p ${number(shift.p)}, at the least ${number(1 / (1 + null_.draws))}).`,
    ),
    h("p", { class: "wbx-quiet" }, `Arrows go from intact to ablated; the map shows ${percent(shift.in_plane)} of the squared change.${mean}`),
    h(
      "div",
      { class: "wbx-row" },
      h("label", { for: `${uid}-length` }, "arrows are drawn"),
      length,
      h("label", {}, box, "the first random direction too (dashed)"),
    ),
    h("div", { class: "wbx-scroll" }, h("table", {}, h("thead", {}, head), h("tbody", {}, lines))),
  ];
}

function liveCard(data, state, uid, model, show, result) {
  const card = h("div", {}, h("h4", {}, "Switch heads off"));
  if (!data.live) {
    card.append(h("p", { class: "wbx-quiet" }, "That needs Python: workbench.explore(run_or_model, cells) in a notebook."));
    return { card, update() {}, close() {} };
  }
  const { live } = data;
  const heads = h("div", { class: "wbx-row", role: "group", "aria-label": "heads to ablate" });
  const status = h("p", { role: "status", class: "wbx-status" });
  const button = h("button", { type: "button", class: "wbx-main" }, "ablate");
  const hows = live.hows.map((how, i) => {
    const input = h("input", { type: "radio", name: `${uid}-how`, value: how });
    input.checked = i === 0;
    input.addEventListener("change", () => (state.how = how));
    return h("label", {}, input, how);
  });
  [state.how] = live.hows;
  const update = () => {
    const current = data.heads[state.head].name;
    if (!state.own) state.heads = [current];
    const chips = state.heads.map((name) => {
      const leave = () => {
        state.heads = state.heads.filter((one) => one !== name);
        state.own = state.heads.length > 0;
        update();
        (heads.querySelector("button") || button).focus();
      };
      return h("button", { type: "button", "aria-label": `leave out ${name}`, disabled: !state.own, click: leave }, state.own ? `${name} ×` : name);
    });
    const add = () => {
      state.own = true;
      state.heads = [...state.heads, current];
      update();
      heads.querySelector("button").focus();
    };
    const keep = () => {
      state.own = true;
      update();
    };
    const more = state.heads.includes(current)
      ? state.own ? null : h("button", { type: "button", click: keep }, `keep ${current} and choose more`)
      : h("button", { type: "button", click: add }, `add ${current}`);
    heads.replaceChildren(...chips, ...(more ? [more] : []));
  };
  let asked = 0;
  const fail = (text) => {
    status.className = "wbx-status wbx-error";
    status.textContent = text;
  };
  const done = () => {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  };
  const answered = (message) => {
    if (!message || message.id !== `${uid} ${asked}`) return;
    done();
    if (message.type === "error") return fail(message.message);
    status.className = "wbx-status wbx-unseen";
    status.textContent = `${message.heads.join(" + ")}: n = ${count(message.n, "cell")}, mean turn ${number(message.mean)}.`;
    show(message);
  };
  button.addEventListener("click", () => {
    const map = data.maps.find((one) => one.key === live.map);
    const present = new Set(map.group);
    const labels = map.groups.filter((group, i) => present.has(i) && !state.off.has(group.label)).map((group) => group.label);
    asked += 1;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    status.className = "wbx-status";
    status.textContent = "Python is at work ...";
    // Python answers all views of a widget; the id says whose question it was.
    model.send({ type: "ablate", id: `${uid} ${asked}`, heads: state.heads, how: state.how, labels });
  });
  model.on("msg:custom", answered);
  card.append(
    heads,
    h("div", { class: "wbx-row", role: "radiogroup", "aria-label": "what is put in their place" }, hows, button),
    h(
      "p",
      { class: "wbx-quiet" },
      `In the chosen cells of the map of embeddings, at most ${number(live.max_cells)}, drawn by seed ${live.seed}; beside ${count(live.null_draws, "random direction")} of the same change.`,
    ),
    status,
    result,
  );
  return { card, update, close: () => model.off("msg:custom", answered) };
}

const PLOT = { width: 580, height: 300, left: 48, right: 148, top: 12, bottom: 36 };
const DASHES = ["6 4", "2 3", "9 3 2 3", "12 4"];

function ticksOf(low, high, wanted = 5) {
  const rough = (high - low || 1) / wanted;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((one) => one >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function layerName(layer) {
  return layer < 0 ? "in front of the first layer" : `after layer ${layer}`;
}

// One measure of one hook by layer: the model, its controls dashed, and what needs no model as lines with a band.
function layersPlot(layers, measure, hook) {
  const points = measure.rows.map(([source, own, layer, value, low, high, n]) => ({ source, hook: own, layer, value, low, high, n }));
  const bases = points.filter((point) => point.source === layers.baseline && point.value !== null);
  const shown = points.filter((point) => point.source !== layers.baseline && point.hook === hook && point.value !== null);
  const sources = [...new Set(shown.map((point) => point.source))].sort((a, b) => (b === layers.model) - (a === layers.model));
  const chart = s("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", class: "wbx-layers" });
  chart.setAttribute("aria-label", `${measure.name} of ${hook} by layer: ${count(sources.length, "line")}, ${count(bases.length, "baseline")}. The table below has the numbers.`);
  const values = [...bases, ...shown].flatMap((point) => [point.value, point.low, point.high]).filter((value) => value !== null);
  if (!values.length) return { chart, rows: [] };
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [low - room, high + room];
  const steps = [...new Set(shown.map((point) => point.layer))].sort((a, b) => a - b);
  const span = Math.max(steps[steps.length - 1] - steps[0], 1);
  const right = PLOT.width - PLOT.right;
  const bottom = PLOT.height - PLOT.bottom;
  const x = (layer) => PLOT.left + 10 + ((layer - steps[0]) / span) * (right - PLOT.left - 20);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - PLOT.top);
  const at = (value) => value.toFixed(1);
  ticksOf(low, high).forEach((tick) => {
    chart.append(s("path", { class: "wbx-axis", d: `M${PLOT.left} ${at(y(tick))}H${right}` }));
    chart.append(s("text", { x: PLOT.left - 6, y: at(y(tick) + 4), "text-anchor": "end" }, number(tick)));
  });
  const every = Math.ceil(steps.length / 14);
  steps.forEach((layer, i) => {
    if (i % every) return;
    chart.append(s("text", { x: at(x(layer)), y: bottom + 15, "text-anchor": "middle" }, layer < 0 ? "in" : String(layer)));
  });
  chart.append(s("text", { x: (PLOT.left + right) / 2, y: PLOT.height - 5, "text-anchor": "middle" }, "after layer"));
  const names = [];
  bases.forEach((base) => {
    const about = `${base.hook}: ${number(base.value)}${base.low === null ? "" : ` (95 % ${number(base.low)} to ${number(base.high)})`}, n = ${count(base.n, "cell")}`;
    if (base.low !== null && base.high > base.low) {
      chart.append(s("rect", { class: "wbx-base", x: PLOT.left, y: at(y(base.high)), width: right - PLOT.left, height: at(y(base.low) - y(base.high)) }, s("title", {}, about)));
    }
    chart.append(s("path", { class: "wbx-line", d: `M${PLOT.left} ${at(y(base.value))}H${right}` }, s("title", {}, about)));
    names.push([y(base.value), base.hook, ""]);
  });
  sources.forEach((source, i) => {
    const own = source === layers.model ? " wbx-own" : "";
    const line = shown.filter((point) => point.source === source).sort((a, b) => a.layer - b.layer);
    const path = line.map((point, j) => `${j ? "L" : "M"}${at(x(point.layer))} ${at(y(point.value))}`).join("");
    const dash = own ? {} : { "stroke-dasharray": DASHES[(i - 1 + DASHES.length) % DASHES.length] };
    chart.append(s("path", { class: `wbx-line${own}`, d: path, ...dash }));
    line.forEach((point) => {
      const interval = point.low === null ? "" : ` (95 % ${number(point.low)} to ${number(point.high)})`;
      const about = `${source}, ${layerName(point.layer)}: ${number(point.value)}${interval}, n = ${count(point.n, "cell")}`;
      if (point.low !== null) chart.append(s("path", { class: `wbx-line${own}`, d: `M${at(x(point.layer))} ${at(y(point.low))}V${at(y(point.high))}` }));
      chart.append(s("circle", { class: `wbx-dot${own}`, cx: at(x(point.layer)), cy: at(y(point.value)), r: 3.4 }, s("title", {}, about)));
    });
    names.push([y(line[line.length - 1].value), source, own]);
  });
  // Names stand at the height of their lines, moved apart where lines meet.
  names.sort((a, b) => a[0] - b[0]);
  names.forEach((name, i) => (name[0] = Math.max(name[0], i ? names[i - 1][0] + 12 : PLOT.top)));
  for (let i = names.length - 1, most = bottom; i >= 0; i -= 1, most = names[i + 1][0] - 12) names[i][0] = Math.min(names[i][0], most);
  names.forEach(([height, name, own]) => {
    const short = name.length > 22 ? `${name.slice(0, 21)}…` : name;
    chart.append(s("text", { class: own.trim(), x: right + 6, y: at(height + 4) }, short, s("title", {}, name)));
  });
  return { chart, rows: [...shown.sort((a, b) => sources.indexOf(a.source) - sources.indexOf(b.source) || a.layer - b.layer), ...bases] };
}

function layersCard(data, uid) {
  const { layers } = data;
  if (!layers) return { card: null, update() {} };
  const option = (name, i) => h("option", { value: i }, name);
  const measures = h("select", { id: `${uid}-layers-measure` }, layers.measures.map((one, i) => option(one.name, i)));
  const hooks = h("select", { id: `${uid}-layers-hook` }, layers.hooks.map(option));
  measures.value = String(layers.first);
  const place = h("div", { class: "wbx-scroll" });
  const rows = h("tbody");
  const columns = ["space", "hook", "layer", "value", "95 %", "n cells"].map((text, i) => h("th", { scope: "col", class: i > 1 ? "wbx-number" : null }, text));
  const update = () => {
    const found = layersPlot(layers, layers.measures[Number(measures.value)], layers.hooks[Number(hooks.value)]);
    place.replaceChildren(found.chart);
    rows.replaceChildren(
      ...found.rows.map((row) => {
        const interval = row.low === null ? "–" : `${number(row.low)} to ${number(row.high)}`;
        const numbers = [row.layer === null ? "–" : row.layer < 0 ? "in" : String(row.layer), number(row.value), interval, number(row.n)];
        return h("tr", {}, h("td", {}, row.source), h("td", {}, row.hook), numbers.map((text) => h("td", { class: "wbx-number" }, text)));
      }),
    );
  };
  measures.addEventListener("change", update);
  hooks.addEventListener("change", update);
  const card = h(
    "section",
    { class: "wbx-card wbx-head", "aria-label": "Layers" },
    h("h3", {}, "Layers"),
    h(
      "div",
      { class: "wbx-row" },
      h("label", { for: `${uid}-layers-measure` }, "measure"),
      measures,
      h("label", { for: `${uid}-layers-hook` }, "hook"),
      hooks,
    ),
    place,
    h("p", { class: "wbx-quiet" }, "Solid: the model. Dashed: the same passes of its controls. Across: spaces that need no model. Bars and bands: 95 %."),
    h("details", {}, h("summary", {}, "The numbers"), h("div", { class: "wbx-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, columns)), rows))),
  );
  return { card, update };
}

function render({ model, el }) {
  const data = model.get("data");
  const uid = `wbx-${Math.random().toString(36).slice(2, 9)}`;
  const best = (rows) => rows.reduce((at, row, i) => (row && row.value !== null && (at < 0 || row.value > rows[at].value) ? i : at), -1);
  const state = {
    head: Math.max(best(data.measures[0].rows), 0),
    measure: 0,
    map: 0,
    off: new Set(),
    heads: [],
    own: false,
    how: null,
    result: null,
    length: 1,
    null: false,
  };
  const parts = {};
  const choose = (at) => {
    state.head = at;
    parts.heads.update();
    parts.head.update();
    parts.live.update();
    spoken.textContent = `Head ${data.heads[at].name} is shown.`;
  };
  const spoken = h("p", { role: "status", class: "wbx-unseen" });
  const result = h("div", { class: "wbx-result" });
  parts.heads = headsCard(data, state, uid, choose);
  parts.head = headCard(data, state);
  parts.cells = cellsCard(data, state, uid, result);
  parts.layers = layersCard(data, uid);
  parts.live = liveCard(data, state, uid, model, parts.cells.show, result);
  parts.heads.card.append(spoken, parts.live.card);
  const facts = h("dl", {}, data.facts.map(([what, value]) => h("div", {}, h("dt", {}, what), h("dd", {}, value))));
  const lacking = data.missing.filter(([what]) => !["score", "ablation", "cells"].includes(what)).map(([what, why]) => h("p", { class: "wbx-quiet" }, `No ${what}: ${why}`));
  const root = h(
    "div",
    { class: "wbx" },
    h("style", {}, STYLE),
    facts,
    h("div", { class: "wbx-columns" }, parts.heads.card, parts.cells.card),
    parts.head.card,
    ...(parts.layers.card ? [parts.layers.card] : []),
    ...lacking,
  );
  el.replaceChildren(root);
  Object.values(parts).forEach((part) => part.update());
  return () => parts.live.close();
}

export default { render };
