#!/usr/bin/env bash
# scikit-dimension 0.5.0: one point twice among 1,501 takes the global `id.MLE` from 5.0 to 0.0 and `id.MiND_ML` from 5.0 to 1.0, and `id.DANCo` to NaN, on a
# 5-dimensional Gaussian. `id.TwoNN` leaves such points out and says so, `id.MADA`, `id.TLE` and `id.CorrInt` hardly move. Of MLE and MiND_ML nothing
# but NumPy's division by zero tells it. Cells that are repeated in an embedding (two with the same counts, as after a cut to a panel) are such points.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-dimension==0.5.0 numpy==1.26.4 scipy==1.17.1 scikit-learn==1.9.1
cat >"$folder/repeat.py" <<'PY'
import contextlib, importlib.metadata, io
import numpy as np
from skdim import id as estimators

print("scikit-dimension", importlib.metadata.version("scikit-dimension"))
rng = np.random.default_rng(0)
points = np.hstack([rng.normal(size=(1500, 5)), np.zeros((1500, 15))]) @ np.linalg.qr(rng.normal(size=(20, 20)))[0]
found = {}
for name in ("MLE", "MiND_ML", "DANCo", "TwoNN", "MADA", "TLE", "CorrInt"):
    for what, x in (("as they are", points), ("first twice", np.vstack([points, points[:1]]))):
        options = {"random_state": 0} if name == "DANCo" else {}
        with contextlib.redirect_stdout(io.StringIO()):
            found[name, what] = float(getattr(estimators, name)(**options).fit(x).dimension_)
    print(f"{name}: {found[name, 'as they are']:.2f}, with the first point twice {found[name, 'first twice']:.2f}")
assert found["MLE", "first twice"] == 0 and found["MiND_ML", "first twice"] == 1 and np.isnan(found["DANCo", "first twice"])
assert all(abs(found[name, "first twice"] - found[name, "as they are"]) < 0.1 for name in ("TwoNN", "MADA", "TLE", "CorrInt"))
PY
"$folder/env/bin/python" -W ignore "$folder/repeat.py"
# Seen on 2026-11-30:
# scikit-dimension 0.5.0
# MLE: 5.01, with the first point twice 0.00
# MiND_ML: 5.02, with the first point twice 1.00
# DANCo: 5.70, with the first point twice nan
# TwoNN: 5.04, with the first point twice 5.05
# MADA: 5.41, with the first point twice 5.41
# TLE: 5.34, with the first point twice 5.34
# CorrInt: 4.59, with the first point twice 4.59
