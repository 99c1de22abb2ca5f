#!/usr/bin/env bash
# anndata 0.13.4 beside pandas 3 writes the names of cells, none of them missing, as a group with a mask (nullable-string-array) instead of a
# dataset of strings: anndata 0.10 cannot read the file, and code that slices obs/_index with h5py fails. With pandas 2 they were a dataset.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for python in "${PYTHON:-python3}" python3.13 python3.12 "$HOME"/.pyenv/versions/3.1[23].*/bin/python; do
    "$python" -c "import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null && break
done
for set in "new anndata==0.13.4 pandas==3.1.1 numpy==2.5.5 h5py==3.16.0" "old anndata==0.10.9 pandas==2.2.3 numpy==2.1.3 h5py==3.16.0"; do
    read -r -a words <<<"$set"
    "$python" -m venv "$folder/${words[0]}"
    "$folder/${words[0]}/bin/pip" install --quiet --no-compile --disable-pip-version-check "${words[@]:1}"
done
cat >"$folder/write.py" <<'PY'
import importlib.metadata, sys
import anndata as ad, h5py, numpy as np, pandas as pd
a = ad.AnnData(np.eye(3, dtype="float32"), obs=pd.DataFrame({"n": [1, 2, 3]}, index=["x", "y", "z"]))
a.write_h5ad(sys.argv[1])
with h5py.File(sys.argv[1]) as file:
    names = file["obs/_index"]
    kind = type(names).__name__
    try:
        said = str(names[:2])
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(*(f"{n} {importlib.metadata.version(n)}" for n in ("anndata", "pandas")), kind, names.attrs["encoding-type"])
    print("obs/_index[:2] with h5py:", said)
sys.exit(kind != "Group")
PY
cat >"$folder/read.py" <<'PY'
import sys
import anndata as ad
print("anndata 0.10.9 reads its own file:", list(ad.read_h5ad(sys.argv[1]).obs_names))
try:
    print("read:", list(ad.read_h5ad(sys.argv[2]).obs_names))
except Exception as error:
    print("anndata 0.10.9 on the new file:", type(error).__name__, str(error)[:110])
    sys.exit(type(error).__name__ != "IORegistryError")
sys.exit(1)
PY
"$folder/new/bin/python" -W ignore "$folder/write.py" "$folder/new.h5ad"
"$folder/old/bin/python" -W ignore "$folder/write.py" "$folder/old.h5ad" && exit 1
"$folder/old/bin/python" -W ignore "$folder/read.py" "$folder/old.h5ad" "$folder/new.h5ad"
# Seen on 2026-11-28:
# anndata 0.13.4 pandas 3.1.1 Group nullable-string-array
# obs/_index[:2] with h5py: TypeError: Accessing a group is done with bytes or str, not <class 'slice'>
# anndata 0.10.9 pandas 2.2.3 Dataset string-array
# obs/_index[:2] with h5py: [b'x' b'y']
# anndata 0.10.9 reads its own file: ['x', 'y', 'z']
# anndata 0.10.9 on the new file: IORegistryError No read method registered for IOSpec(encoding_type='nullable-string-array', encoding_version='0.1.0') 
