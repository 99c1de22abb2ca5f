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
      var words = field.value.toLowerCase().split(/\s+/).filter(Boolean), kept = 0;
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
