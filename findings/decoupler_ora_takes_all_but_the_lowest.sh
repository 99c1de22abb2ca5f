#!/usr/bin/env bash
# decoupler 2.2.0's `mt.ora` is to take the top 5 % of an observation's features (or n_up of them), and takes all but that many: of
# 1,000 features in order, sets of ranks 1 to 10, 501 to 510 and 941 to 950 get the same odds ratio and the same p of 7e-14. Whoever
# wants the top 50 has to ask for n_up=950.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    decoupler==2.2.0 anndata==0.12.19 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1
cat >"$folder/look.py" <<'PY'
import sys, warnings
warnings.simplefilter("ignore")
import decoupler as dc, numpy as np, pandas as pd

genes = [f"F{i}" for i in range(1000)]
cell = pd.DataFrame([np.arange(1000, 0, -1.0)], index=["cell"], columns=genes)
ranks = {"1 to 10": range(10), "501 to 510": range(500, 510), "941 to 950": range(940, 950), "991 to 1000": range(990, 1000)}
net = pd.DataFrame([(name, genes[i]) for name, rows in ranks.items() for i in rows], columns=["source", "target"])
found = {}
for n_up in (None, 50, 950):
    score, p = dc.mt.ora(cell, net, n_up=n_up, tmin=5)
    found[n_up] = p.loc["cell", list(ranks)]
    print("n_up", n_up, {name: f"{score.loc['cell', name]:.2f}, p {p.loc['cell', name]:.0e}" for name in ranks})
same = all(np.ptp(found[n][:3]) == 0 and found[n].iloc[0] < 1e-10 for n in (None, 50))
mended = found[950].iloc[0] < 1e-20 and found[950].iloc[1] > 0.9
print("decoupler", dc.__version__, "- the middle is as significant as the top:", same, "- n_up=950 tells them apart:", mended)
sys.exit(0 if same and mended else 1)
PY
"$folder/venv/bin/python" "$folder/look.py"
# Seen on 2026-11-29:
# n_up None {'1 to 10': '6.05, p 7e-14', '501 to 510': '6.05, p 7e-14', '941 to 950': '6.05, p 7e-14', '991 to 1000': '-0.05, p 1e+00'}
# n_up 50: the same
# n_up 950 {'1 to 10': '9.24, p 1e-26', '501 to 510': '2.93, p 1e+00', '941 to 950': '2.93, p 1e+00', '991 to 1000': '2.93, p 1e+00'}
