"use strict";
(async () => {
  const SVG = "http://www.w3.org/2000/svg", STEP = 200;
  const at = (id) => document.getElementById(id);
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  // Labels come from data: they are only ever set as text.
  const make = (name, text, more = {}) => {
    const element = Object.assign(document.createElement(name), more);
    if (text !== undefined && text !== null) element.textContent = text;
    return element;
  };
  const put = (parent, ...children) => (parent.append(...children), parent);
  const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 3 }));
  // Effects may be of any size.
  const sized = (value) => (value && Math.abs(value) < 1e-3 ? value.toExponential(1).replace("e-", "e−").replace(/^-/, "−") : number(value).replace(/^-/, "−"));
  const percent = (value) => (value === null || value === undefined ? "–" : `${number(100 * value)} %`);

  const data = await unpack(at("data").textContent);
  const n = data.tops.length, each = data.each;
  const value = (name, i) => (data.values[name] ? data.values[name][i] : null);
  const word = (name, i) => (data.numbers[name] && data.numbers[name][i] >= 0 ? data.words[name][data.numbers[name][i]] : "");
  const flag = (name, i) => Boolean(data.flags[name] && data.flags[name][i]);
  const texts = data.tops.map((genes, i) =>
    [`${i}`, ...genes.map((gene) => data.genes[gene]), word("cell_type", i), word("program", i), word("ranked_program", i), word("regulator", i)].filter(Boolean).map((one) => one.toLowerCase()));

  for (const [name, text] of data.about) put(at("about"), make("dt", name), make("dd", text));

  // Filters: only those that the data can answer.
  const filters = {};
  const check = (name, text, holds, on = false) => {
    const box = make("input", undefined, { type: "checkbox", id: `only-${name}`, checked: on });
    box.addEventListener("change", show);
    filters[name] = (i) => !box.checked || holds(i);
    put(at("filters"), put(make("label"), box, ` ${text}`));
  };
  const orders = [["number", "number", (i) => i]];
  orders.push(["density", "how often it fires", (i) => -value("density", i)]);
  const missing = (one) => (one === null ? Infinity : one);
  if (data.values.q) orders.push(["q", "q of the program", (i) => missing(value("q", i))]);
  if (data.values.found_again) orders.push(["found_again", "found by another seed", (i) => -(value("found_again", i) ?? -2)]);
  if (data.values.top_share) orders.push(["top_share", "share on one gene", (i) => -(value("top_share", i) ?? -1)]);
  const order = make("select", undefined, { id: "order" });
  for (const [name, text] of orders) put(order, make("option", text, { value: name }));

  // Genes that match by their whole name come before those that only contain the text.
  const matches = () => {
    const wanted = at("search").value.trim().toLowerCase();
    const kept = [...Array(n).keys()].filter((i) => Object.values(filters).every((holds) => holds(i)));
    const by = orders.find(([name]) => name === order.value)[2];
    const rank = (i) => {
      if (!wanted || texts[i].includes(wanted)) return 0;
      if (texts[i].some((one) => one.startsWith(wanted))) return 1;
      return texts[i].some((one) => one.includes(wanted)) ? 2 : 3;
    };
    const ranked = kept.map((i) => [rank(i), by(i), i]).filter(([r]) => r < 3);
    return ranked.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]).map(([, , i]) => i);
  };

  let found = [], shown = STEP, current = -1, asked = 0;
  const dots = [];
  function list() {
    const rows = found.slice(0, shown).map((i) => {
      const button = make("button", undefined, { type: "button" });
      button.dataset.feature = i;
      button.setAttribute("aria-current", i === current);
      const said = [word("program", i) && flag("named", i) ? word("program", i) : "", word("cell_type", i)].filter(Boolean).join(" · ");
      put(button, make("b", `${i}`), said ? ` ${said}` : "", value("density", i) === 0 ? " never fires" : "");
      if (flag("one_donor", i)) put(button, " ", make("span", "one donor", { className: "mark" }));
      put(button, make("span", data.tops[i].slice(0, 5).map((gene) => data.genes[gene]).join(", "), { className: "genes" }));
      button.addEventListener("click", () => choose(i));
      return put(make("li"), button);
    });
    at("list").replaceChildren(...rows);
    at("more").hidden = found.length <= shown;
    at("count").textContent = `${found.length.toLocaleString("en")} of ${n.toLocaleString("en")} features`;
  }
  function show() {
    found = matches();
    shown = STEP;
    list();
    const there = new Set(found);
    const all = !at("search").value.trim() && !document.querySelector("#filters input:checked:not(#only-alive)");
    dots.forEach((dot, i) => dot.classList.toggle("found", !all && there.has(i)));
  }

  // A script file may be loaded from the folder of a page that was opened from a file; data may not.
  const loaded = new Map(), waiting = new Map();
  window.dictionaryDetail = async (part, text) => {
    const cards = await unpack(text);
    loaded.set(part, cards);
    (waiting.get(part) || []).forEach((done) => done(cards));
    waiting.delete(part);
  };
  const detail = (i) => new Promise((done) => {
    const part = Math.floor(i / each);
    if (loaded.has(part)) return done(loaded.get(part)[i % each]);
    const give = (cards) => done(cards && cards[i % each]);
    if (waiting.has(part)) return waiting.get(part).push(give);
    waiting.set(part, [give]);
    const script = make("script", undefined, { src: `features-${part}.js` });
    script.addEventListener("error", () => { (waiting.get(part) || []).forEach((one) => one(null)); waiting.delete(part); });
    document.head.append(script);
  });

  const map = document.createElementNS(SVG, "svg");
  map.setAttribute("viewBox", "-30 -30 1060 1060");
  map.setAttribute("role", "img");
  map.setAttribute("aria-label", "Map of all features by their directions; the list is the way with keys");
  data.map.forEach(([x, y], i) => {
    const dot = document.createElementNS(SVG, "circle");
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", 1000 - y);
    dot.setAttribute("r", n > 600 ? 7 : 11);
    const title = document.createElementNS(SVG, "title");
    title.textContent = [`${i}`, ...data.tops[i].slice(0, 3).map((gene) => data.genes[gene])].join(" ");
    dot.append(title);
    dot.addEventListener("click", () => choose(i));
    dots.push(dot);
    map.append(dot);
  });

  const table = (heads, rows) => {
    const made = make("table"), head = make("tr");
    heads.forEach((text, i) => put(head, make("th", text, { scope: "col", className: i ? "number" : "" })));
    return put(made, put(make("thead"), head), put(make("tbody"), ...rows));
  };
  const cell = (text, i) => (text instanceof Node ? text : make("td", text, { className: i ? "number" : "" }));
  const row = (...cells) => put(make("tr"), ...cells.map(cell));
  const bars = (kinds) => {
    const most = Math.max(...kinds.m.map((one) => one ?? 0), 1e-12);
    const rows = data.types.map((name, i) => [name, kinds.m[i] ?? 0, kinds.d[i] ?? 0]).sort((a, b) => b[1] - a[1]);
    return table(["cell type", "", "mean", "fires at"], rows.map(([name, mean, density]) => {
      const bar = make("span", undefined, { className: "bar" });
      bar.style.width = `${Math.round((100 * mean) / most)}%`;
      return row(name, put(make("td", undefined, { className: "room" }), bar), number(mean), percent(density));
    }));
  };

  // A feature's effect and its interval over the range of its like; 0 is always in sight.
  const strip = (one) => {
    const ends = [0, one.effect, one.low, one.high, one.null_low, one.null_high].filter((end) => end !== null);
    const low = Math.min(...ends), width = Math.max(...ends) - low || 1;
    const made = document.createElementNS(SVG, "svg");
    made.setAttribute("viewBox", "-6 0 312 26");
    made.setAttribute("class", "strip");
    made.setAttribute("aria-hidden", "true"); // the text beside it says the same
    const draw = (name, kind, place) => {
      const part = document.createElementNS(SVG, name);
      part.setAttribute("class", kind);
      for (const [key, to] of Object.entries(place)) part.setAttribute(key, to);
      made.append(part);
    };
    const x = (one) => (300 * (one - low)) / width;
    if (one.null_low !== null) draw("rect", "like", { x: x(one.null_low), y: 6, width: Math.max(x(one.null_high) - x(one.null_low), 1), height: 14 });
    draw("line", "zero", { x1: x(0), x2: x(0), y1: 0, y2: 26 });
    if (one.low !== null) draw("line", "span", { x1: x(one.low), x2: x(one.high), y1: 13, y2: 13 });
    draw("ellipse", "effect", { cx: x(one.effect), cy: 13, rx: 5, ry: 5 });
    return made;
  };
  const DONE = { zero: "Taken away at every gene", clamp: "Held at @ at every gene", scale: "Multiplied by @ at every gene" };
  const effects = (rows) => {
    const of = data.effects, part = make("div", undefined, { id: "effects" });
    const tested = data.flags.tested.reduce((sum, one) => sum + one, 0);
    if (!rows) return put(part, make("p", `Not among the ${number(tested)} features that were changed.`, { className: "hint" }));
    put(part, make("p", `${DONE[of.how].replace("@", number(of.amount))}, what the dictionary leaves out kept:`));
    for (const [metric, ...values] of rows) {
      const one = Object.fromEntries(of.columns.map((name, k) => [name, values[k]]));
      if (one.effect === null) {
        put(part, put(make("p"), make("b", of.metrics[metric]), ": no cell has it."));
        continue;
      }
      const within = one.low === null ? "" : ` (95 % ${sized(one.low)} to ${sized(one.high)})`;
      const verdict = one.q === null ? "" : `; q ${number(one.q)}, ${one.beyond ? "more than its like" : "not beyond its like"}`;
      put(part, put(make("p"), make("b", of.metrics[metric]), ` changes by ${sized(one.effect)}${within} over ${number(one.n_cells)} cells${verdict}.`), strip(one));
      const like = one.n_null ? `Of ${number(one.n_null)} features that fire as often and are as strong: ${sized(one.null_low)} to ${sized(one.null_high)}; p can be ${number(one.smallest_p)} at the least.`
        : "No other feature fires as often and is as strong, so that it has nothing to be compared with.";
      put(part, make("p", like, { className: "hint" }));
    }
    return part;
  };

  async function choose(i) {
    current = i;
    const turn = ++asked;
    history.replaceState(null, "", `#${i}`);
    document.querySelectorAll("#list button").forEach((one) => one.setAttribute("aria-current", Number(one.dataset.feature) === i));
    const card = await detail(i);
    if (turn !== asked) return;
    if (!card) {
      at("card").replaceChildren(make("p", `The file features-${Math.floor(i / each)}.js is not beside this page; copy the whole folder.`));
      return;
    }
    const more = Object.fromEntries(data.card.map((name, k) => [name, card.v[k]]));
    const facts = make("dl"), fact = (name, text) => text && put(facts, make("dt", name), make("dd", text));
    const density = value("density", i);
    const often = `at ${percent(density)} of rows${density > 0.5 ? " (dense)" : ""}, mean ${number(more.mean)} where it does`;
    fact("Fires", density === 0 ? "never on held-out cells (dead)" : often);
    const share = value("top_share", i);
    if (share !== null) fact("One gene?", `${percent(share)} of its activation is on one gene; as if spread evenly over ${number(more.n_genes)}`);
    if (more.level_r !== null) fact("Expression level", `correlation ${number(more.level_r)} where it fires`);
    if (value("found_again", i) !== null) fact("Another seed", `finds it with cosine ${number(value("found_again", i))}`);
    if (word("cell_type", i)) fact("Cell type", `${word("cell_type", i)}, ${number(more.cell_type_lift)} x its share of rows`);
    const alone = flag("one_donor", i) ? ": a feature of one donor" : "";
    if (word("donor", i)) fact("Donor", `${percent(more.donor_share)} of its activation is in ${word("donor", i)}${alone}`);
    const near = put(make("p", undefined, { className: "near" }));
    for (const [other, cosine] of card.n) {
      const button = make("button", `${other} (${(cosine / 100).toFixed(2)})`, { type: "button" });
      button.title = data.tops[other].slice(0, 3).map((gene) => data.genes[gene]).join(", ");
      button.addEventListener("click", () => choose(other));
      put(near, button);
    }
    const left = make("div"), right = make("div");
    put(left, facts);
    if (data.words.program) {
      put(left, make("h3", "Program"));
      if (word("program", i)) {
        const sure = flag("named", i) ? "named beyond random directions" : "not beyond random directions";
        const of = `: ${number(more.overlap)} of its ${number(more.n_list)} top genes, odds ${number(more.odds)}; q ${number(value("q", i))}, ${sure}. `;
        const beside = make("span", `Of random directions of the cells ${percent(more.p)} do as well.`, { className: "hint" });
        put(left, put(make("p", undefined, { id: "program" }), make("b", word("program", i)), of, beside));
      } else put(left, make("p", "None of its top genes is in a gene set.", { id: "program" }));
    }
    const beside = (name, of, p, q, what) => word(name, i) &&
      put(left, put(make("p", undefined, { id: name }), make("b", word(name, i)), `: ${of}; q ${number(q)}. `,
        make("span", `Of ${what} ${percent(p)} do as well.`, { className: "hint" })));
    beside("ranked_program", `top of the ranking of all genes, score ${number(more.ranked_score)}`, more.ranked_p, more.ranked_q, "random directions of the cells");
    beside("regulator", `regulator of ${number(more.regulator_overlap)} top genes`, more.regulator_p, more.regulator_q, "random directions of the cells");
    if (data.effects) put(left, make("h3", "What it causes"), effects(card.e));
    const tops = card.g.map(([gene, mean, lift, firings]) => row(data.genes[gene], number(mean), number(lift), number(firings)));
    if (tops.length) put(left, make("h3", "Top genes"), table(["gene", "mean where it fires", "lift", "firings"], tops));
    if (card.c) put(left, make("h3", "Top cells"), table(["cell", "mean", "firings"],
      card.c.map(([cell, of, mean, firings]) => row(of ? `${cell} (${of})` : cell, number(mean), number(firings)))));
    if (data.types.length && card.t.m) put(left, make("h3", "Activation by cell type"), bars(card.t));
    put(right, make("h3", "Neighbours, by cosine of their directions"), near, make("h3", "Where it lies"), map,
      make("p", "UMAP of all directions: only neighbourhoods can be read from it. Blue: what the search found.", { className: "hint" }));
    dots.forEach((dot) => dot.classList.remove("here", "near"));
    card.n.forEach(([other]) => { dots[other].classList.add("near"); map.append(dots[other]); });
    dots[i].classList.add("here");
    map.append(dots[i]);
    at("card").replaceChildren(make("h2", `Feature ${i}`, { id: "feature" }), put(make("div", undefined, { className: "columns" }), left, right));
  }

  check("alive", "leave out dead", (i) => value("density", i) > 0, true);
  if (data.flags.named) check("named", "named only", (i) => flag("named", i));
  if (data.flags.one_donor) check("one_donor", "one donor only", (i) => flag("one_donor", i));
  if (data.flags.tested) check("tested", "effects measured", (i) => flag("tested", i));
  if (data.flags.beyond && data.flags.beyond.includes(1)) check("beyond", "does more than its like", (i) => flag("beyond", i));
  put(at("filters"), put(make("label", "sort by "), order));
  order.addEventListener("change", show);
  at("search").addEventListener("input", show);
  at("more").addEventListener("click", () => { shown += STEP; list(); });
  window.addEventListener("hashchange", () => { const i = Number(location.hash.slice(1)); if (i >= 0 && i < n && i !== current) choose(i); });
  show();
  const first = location.hash ? Number(location.hash.slice(1)) : found[0];
  if (first >= 0 && first < n) await choose(first);
  document.body.dataset.ready = "true";
})();
