#!/usr/bin/env bash
# pegasuspy 1.10.2 scores the cell cycle by sets that its documentation takes from Tirosh et al. 2016, under the symbols that a later table gives them.
# In its G1/S three genes of the publication, whose symbols are approved ones, gave way to others: RPA2 to POLR1B, a subunit of RNA polymerase I that has
# RPA2 as an alias; MCM2 to MCM7, whose previous symbol it is; BRIP1 to MRPL36, a protein of mitochondrial ribosomes. G2/M names HJURP twice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps pegasuspy==1.10.2
cat >"$folder/sets.py" <<'PY'
from importlib.metadata import distribution

package = distribution("pegasuspy")
file = next(one for one in package.files if one.name == "cell_cycle_human.gmt")
sets = {row[0]: row[2:] for row in (line.rstrip("\n").split("\t") for line in file.read_text().splitlines())}
# The 43 genes of S phase of the publication, CENPU for MLF1IP.
published = """ATAD2 BLM BRIP1 CASP8AP2 CCNE2 CDC45 CDC6 CDCA7 CENPU CHAF1B CLSPN DSCC1 DTL E2F8 EXO1 FEN1 GINS2 GMNN HELLS MCM2 MCM4 MCM5 MCM6 MSH2 NASP
PCNA POLA1 POLD3 PRIM1 RAD51 RAD51AP1 RFC2 RPA2 RRM1 RRM2 SLBP TIPIN TYMS UBR7 UHRF1 UNG USP1 WDR76""".split()
print("pegasuspy", package.version)
for name, genes in sets.items():
    twice = sorted({gene for gene in genes if genes.count(gene) > 1})
    print(f"{name}: {len(genes)} names, {len(set(genes))} genes, named twice {twice}")
more, fewer = sorted(set(sets["G1/S"]) - set(published)), sorted(set(published) - set(sets["G1/S"]))
print("G1/S has beside the published genes", more, "and lacks", fewer)
assert more == ["MCM7", "MRPL36", "POLR1B"] and fewer == ["BRIP1", "MCM2", "RPA2"]
assert sets["G2/M"].count("HJURP") == 2
PY
"$folder/env/bin/python" "$folder/sets.py"
# Seen on 2026-11-30:
# pegasuspy 1.10.2
# G1/S: 43 names, 43 genes, named twice []
# G2/M: 55 names, 54 genes, named twice ['HJURP']
# G1/S has beside the published genes ['MCM7', 'MRPL36', 'POLR1B'] and lacks ['BRIP1', 'MCM2', 'RPA2']
