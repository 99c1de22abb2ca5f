#!/usr/bin/env bash
# blitzGSEA 1.3.54 leaves out of a leading edge the gene at which the running sum is largest, which belongs to it by definition and
# is always a member of the set: each leading edge of a positive score is one gene short. Those of negative scores are whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    blitzgsea==1.3.54 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 statsmodels==0.15.0 matplotlib==3.11.2
cat >"$folder/look.py" <<'PY'
import sys, warnings
warnings.simplefilter("ignore")
import blitzgsea, numpy as np, pandas as pd

if __name__ == "__main__":  # its calibration starts processes
    rng = np.random.default_rng(0)
    genes = np.array([f"G{i}" for i in range(1000)])
    values = np.sort(rng.standard_normal(1000))[::-1]
    sets = {f"S{i}": set(rng.choice(genes, 30, replace=False)) for i in range(40)}
    found = blitzgsea.gsea(pd.DataFrame({"gene": genes, "value": values}), sets, processes=2)
    size, short, whole = np.abs(values - values.mean()), [], []
    for name, row in found.iterrows():
        hit = np.isin(genes, list(sets[name]))
        run = np.cumsum(np.where(hit, size / size[hit].sum(), -1 / (~hit).sum()))
        said = set(row["leading_edge"].split(",")) - {""}
        if run.max() > -run.min():
            peak = run.argmax()
            short.append(set(genes[: peak + 1][hit[: peak + 1]]) - said == {genes[peak]})
        else:
            low = run.argmin()
            whole.append(set(genes[low:][hit[low:]]) == said)
    print(f"positive scores: {sum(short)} of {len(short)} leading edges lack just the gene at the peak")
    print(f"negative scores: {sum(whole)} of {len(whole)} leading edges are whole")
    sys.exit(0 if all(short) and all(whole) and len(short) > 5 and len(whole) > 5 else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" 2>/dev/null
# Seen on 2026-11-29:
# positive scores: 23 of 23 leading edges lack just the gene at the peak
# negative scores: 17 of 17 leading edges are whole
