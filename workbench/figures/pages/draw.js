// Figures are drawn when they come into view, all of them before printing; plotly.js is unpacked after the page was painted.
(function () {
  "use strict";
  var waiting = Array.from(document.querySelectorAll("script.drawing"));
  function run(source) {
    var script = document.createElement("script");
    script.textContent = source;
    document.body.appendChild(script);
    script.remove();
  }
  function draw(drawing) {
    if (!waiting.includes(drawing)) { return; }
    waiting.splice(waiting.indexOf(drawing), 1);
    run(drawing.textContent);
    figureTheme.now();
  }
  function unpacked() {
    var packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), function (c) { return c.charCodeAt(0); });
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  if (waiting.length && typeof DecompressionStream === "undefined") {
    waiting.forEach(function (drawing) {
      drawing.parentElement.append("This browser cannot unpack the figures; take one of 2023 or later, or the pages in figures/.");
    });
  } else if (waiting.length) {
    requestAnimationFrame(function () {
      setTimeout(function () {
        unpacked().then(function (source) {
          run(source);
          var seen = new IntersectionObserver(function (entries) {
            entries.forEach(function (entry) { if (entry.isIntersecting) { draw(entry.target.drawing); } });
          }, { rootMargin: "50%" });
          waiting.forEach(function (drawing) {
            drawing.parentElement.drawing = drawing;
            seen.observe(drawing.parentElement);
          });
          window.addEventListener("beforeprint", function () { waiting.slice().forEach(draw); });
        });
      }, 0);
    });
  }
})();
