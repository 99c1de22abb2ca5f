#!/usr/bin/env bash
# scTOP 2.0.3 has a class for cells that it cannot tell: "unspecified", where no projection reaches 0.1. A cell that expresses none of the genes
# (as after a cut to a panel) is not among them. Its projections are NaN, NaN is not below 0.1, and it is called by the first class of the basis; where that
# is its true class, create_basis counts it as right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-compile --disable-pip-version-check sctop==2.0.3 anndata==0.12.19 numpy==2.4.6 numba==0.68.1 \
    pandas==2.3.3 scipy==1.17.1 scikit-learn==1.7.2
cat >"$folder/empty.py" <<'PY'
import contextlib, importlib.metadata, io
import anndata as ad, numpy as np, pandas as pd, scipy.sparse as sp, sctop

rng = np.random.default_rng(0)
kind = np.repeat(["alpha", "beta"], 60)
rate = np.where((np.arange(40) < 20) == (kind == "alpha")[:, None], 6.0, 0.5)
counts = rng.poisson(rate).astype("float32")
counts[::4] = 0  # every fourth cell expresses nothing here
names = [f"cell{i}" for i in range(120)]
cells = ad.AnnData(sp.csr_matrix(counts), obs=pd.DataFrame({"type": kind}, index=names), var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    found = sctop.create_basis(cells, "type", threshold=10, test_size=0.5, n_jobs=1, n_scoring_jobs=1, outer_chunks=1, plot_results=False)
print("sctop", importlib.metadata.version("sctop"))
empty = set(names[::4])
rows = pd.DataFrame([{**one, "empty": name in empty} for name, one in found["cell_accuracies"].items()])
for (is_empty, true), own in rows.groupby(["empty", "true"]):
    called = own["predicted"].value_counts().to_dict()
    print(f"{'without counts' if is_empty else 'with counts'}, truly {true}: n {len(own)}, called {called}, right {own['top1'].sum()}, unspecified {own['unspecified'].sum()}")
none = rows[rows["empty"]]
assert len(none) and set(none["predicted"]) == {"alpha"} and not none["unspecified"].any()
assert none.loc[none["true"] == "alpha", "top1"].all()
PY
"$folder/env/bin/python" -W ignore "$folder/empty.py"
# Seen on 2026-11-29, beside NumPy's warning of a division by zero:
# sctop 2.0.3
# with counts, truly alpha: n 21, called {'alpha': 21}, right 21, unspecified 0
# with counts, truly beta: n 21, called {'beta': 21}, right 21, unspecified 0
# without counts, truly alpha: n 9, called {'alpha': 9}, right 9, unspecified 0
# without counts, truly beta: n 9, called {'alpha': 9}, right 0, unspecified 0
