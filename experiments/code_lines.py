"""Lines of code of the package, without blank lines, comments and docstrings: per folder, and the longest modules.

python experiments/code_lines.py
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from workbench.engine.code import PACKAGE, stripped


def main() -> None:
    """Count and print."""
    lines: dict[Path, int] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        lines[path.relative_to(PACKAGE)] = len(stripped(path.read_text(encoding="utf-8")).splitlines())
    folders: Counter[str] = Counter()
    for path, n in lines.items():
        folders[path.parts[0] if len(path.parts) > 1 else "."] += n
    for name, n in folders.most_common():
        print(f"{n:6d}  {name}")
    print(f"{sum(lines.values()):6d}  in all, {len(lines)} modules")
    long = {path: len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in lines}
    print("longest, with everything:", ", ".join(f"{p} {n}" for p, n in sorted(long.items(), key=lambda x: -x[1])[:6]))


if __name__ == "__main__":
    main()
