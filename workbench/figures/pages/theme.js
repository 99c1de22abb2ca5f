"use strict";
var figureTheme = (function () {
  var dark = window.matchMedia("(prefers-color-scheme: dark)"), colors = @colors@;
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
