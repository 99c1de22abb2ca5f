#!/usr/bin/env bash
# blitzGSEA 1.3.54 keeps the null that it has fitted by the signature's values alone: a second call in the same process with another
# seed and 25 times the permutations returns the first call's p-values to the last digit, and so does one with center=False, whose
# scores are others. signature_cache=False does what was asked for.
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
    genes = [f"G{i}" for i in range(2000)]
    values = rng.standard_normal(2000) + 0.5
    signature = pd.DataFrame({"gene": genes, "value": values})
    sets = {f"S{i}": set(rng.choice(genes, 40, replace=False)) for i in range(30)}

    def p(**asked):
        return blitzgsea.gsea(signature, sets, processes=2, **asked)["pval"].loc[list(sets)].to_numpy()

    few = p(permutations=200, seed=1)
    more, afresh = p(permutations=5000, seed=2), p(permutations=5000, seed=2, signature_cache=False)
    print("5,000 permutations and another seed after 200: p-values that are the same to the last digit:", int((more == few).sum()), "of 30")
    print(f"largest difference from a null that is made afresh: {abs(afresh - more).max():.3f}")
    blitzgsea.pdf_cache.clear()
    p(permutations=5000, seed=2)
    after, plain = p(permutations=5000, seed=2, center=False), p(permutations=5000, seed=2, center=False, signature_cache=False)
    print(f"center=False after center=True: largest difference from a null of its own: {abs(after - plain).max():.3f}")
    sys.exit(0 if (more == few).all() and abs(afresh - more).max() > 0.02 and abs(after - plain).max() > 0.02 else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" 2>/dev/null
# Seen on 2026-11-29:
# 5,000 permutations and another seed after 200: p-values that are the same to the last digit: 30 of 30
# largest difference from a null that is made afresh: 0.060
# center=False after center=True: largest difference from a null of its own: 0.752
