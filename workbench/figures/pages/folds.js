"use strict";
// A link into a closed part opens it; paper has all parts open.
(function () {
  var opened = [];
  function reveal() {
    var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) { return; }
    for (var part = target; part; part = part.parentElement) { if (part.tagName === "DETAILS") { part.open = true; } }
    target.scrollIntoView();
  }
  document.addEventListener("click", function (event) {
    // The same link twice changes no hash.
    if (event.target.closest("a[href^='#']")) { setTimeout(reveal, 0); }
  });
  window.addEventListener("hashchange", reveal);
  reveal();
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (part) { part.open = false; });
  });
})();
