"""How soon a report is seen: first paint and load in headless Chromium, opened from the disk; and its size.

    python experiments/performance/report.py artifacts/demo/report.html --json

Needs playwright and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DEMO = Path(__file__).resolve().parents[2] / "artifacts" / "demo" / "report.html"
BOUNDS = {"first_paint_seconds": 2.0, "load_seconds": 5.0, "megabytes": 3.0}


def measure(page: Path, repeats: int) -> dict[str, Any]:
    """Open a page again and again, each time in a fresh browser.

    Parameters
    ----------
    page
        HTML file.
    repeats
        Times that it is opened; the slowest counts.
    """
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    seen = []
    with sync_playwright() as running:
        for _ in range(repeats):
            browser = running.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            opened = browser.new_page(viewport={"width": 1200, "height": 900})
            opened.goto(page.resolve().as_uri())
            paint = opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            load = opened.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
            seen.append({"first_paint_seconds": paint / 1000, "load_seconds": load / 1000})
            browser.close()
    figures = {name: max(one[name] for one in seen) for name in seen[0]}
    figures["megabytes"] = page.stat().st_size / 1e6
    ratio = max(figures[name] / bound for name, bound in BOUNDS.items())
    return {
        "ratio": ratio,
        "within": ratio <= 1,
        **figures,
        "bounds": {name: f"at most {bound:g}" for name, bound in BOUNDS.items()},
        "repetitions": repeats,
        "page": page.name,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "page", type=Path, nargs="?", default=DEMO, help="HTML file (default: the demo's, which `make demo` makes)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.page, options.repeats)
    print(json.dumps(found) if options.json else "\n".join(f"{name:22}{value}" for name, value in found.items()))
