#!/usr/bin/env bash
# scFoundry 0.2.1's "effective dimension" (participation ratio) and partial eta squared standardise each coordinate first. Components of a PCA are uncorrelated, so
# that of any data, noise or one line, have as many effective dimensions as components were kept: 30 of 30 for points of which one axis holds nearly all. The same points
# turned have another dimension and another share of the cell type, while the participation ratio of their covariance does not move: figures
# of models whose embeddings are PCA-like and of others cannot be laid beside each other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-compile --disable-pip-version-check anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 scikit-learn==1.7.2
"$folder/env/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps scfoundry==0.2.1
cat >"$folder/turned.py" <<'PY'
import importlib.metadata, importlib.util
from pathlib import Path
import numpy as np, pandas as pd

where = Path(importlib.util.find_spec("scfoundry").origin).parent / "pipeline/bin/geometry/embedding_geometry.py"
spec = importlib.util.spec_from_file_location("geometry", where)
theirs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(theirs)
print("scfoundry", importlib.metadata.version("scfoundry"))
rng = np.random.default_rng(0)
kind = np.repeat(["a", "b", "c"], 300)
x = rng.normal(size=(900, 30)) * np.r_[20.0, np.full(29, 0.5)]  # nearly all along one axis,
x[:, 0] += 30 * (kind == "a") - 30 * (kind == "c")  # which is that of the cell type
x = (x - x.mean(0)) @ np.linalg.svd(x - x.mean(0), full_matrices=False)[2].T  # a PCA of them
turned = x @ np.linalg.qr(rng.normal(size=(30, 30)))[0]
batches = np.full(900, "one")
for name, points in (("components", x), ("the same, turned", turned)):
    z, _ = theirs.standardize_embedding(points.astype(np.float32))
    ratio = theirs.participation_ratio(z, 4096, 64, 0)[0]
    share = theirs.partial_eta2(z, pd.Series(kind), batches, True)[0]
    plain = np.trace(c := np.cov(points.T)) ** 2 / (c**2).sum()
    print(f"{name}: theirs {ratio:.1f} of 30, of the covariance {plain:.3f}; cell type's share of a coordinate {share:.3f}")
    if name == "components":
        assert abs(ratio - 30) < 0.01 and plain < 1.1 and share < 0.05
    else:
        assert ratio < 3 and share > 0.3
PY
"$folder/env/bin/python" -W ignore "$folder/turned.py"
# Seen on 2026-11-30:
# scfoundry 0.2.1
# components: theirs 30.0 of 30, of the covariance 1.014; cell type's share of a coordinate 0.021
# the same, turned: theirs 1.2 of 30, of the covariance 1.014; cell type's share of a coordinate 0.548
