#!/usr/bin/env bash
# scikit-dimension 0.5.0's `id.KNN` with its defaults builds its graphs on one sample each of 3, 4, 5 and 6 points, however many it is given: of 1,500 points of
# a 5-dimensional Gaussian in 20 coordinates it says anything from 1 to 20 by the seed alone, most often 2, and 20 (all coordinates) for every
# fifth seed. A planted dimension of 2, 5 or 10 hardly shows. Samples of 100 to 1,000 points (`ps`, five of each) give one answer for every seed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-dimension==0.5.0 numpy==1.26.4 scipy==1.17.1 scikit-learn==1.9.1
cat >"$folder/six.py" <<'PY'
import importlib.metadata
import numpy as np
from skdim.id import KNN

print("scikit-dimension", importlib.metadata.version("scikit-dimension"))
rng = np.random.default_rng(0)
for planted in (2, 5, 10):
    points = np.hstack([rng.normal(size=(1500, planted)), np.zeros((1500, 20 - planted))])
    points = points @ np.linalg.qr(rng.normal(size=(20, 20)))[0]
    default = np.array([KNN(random_state=seed).fit(points).dimension_ for seed in range(100)])
    larger = [KNN(random_state=seed, ps=np.arange(100, 1100, 100), M=5).fit(points).dimension_ for seed in range(5)]
    print(f"planted {planted}: over 100 seeds from {default.min()} to {default.max()}, median {np.median(default):.0f}, right {np.mean(default == planted):.0%}, "
          f"20 of 20 in {np.mean(default == 20):.0%}; larger samples, 5 seeds: {sorted(set(map(int, larger)))}")
    assert default.min() == 1 and default.max() == 20 and np.mean(default == planted) < 0.4 and np.mean(default == 20) > 0.1
    assert len(set(larger)) == 1
PY
"$folder/env/bin/python" -W ignore "$folder/six.py"
# Seen on 2026-11-30:
# scikit-dimension 0.5.0
# planted 2: over 100 seeds from 1 to 20, median 1, right 19%, 20 of 20 in 13%; larger samples, 5 seeds: [2]
# planted 5: over 100 seeds from 1 to 20, median 3, right 7%, 20 of 20 in 21%; larger samples, 5 seeds: [4]
# planted 10: over 100 seeds from 1 to 20, median 4, right 1%, 20 of 20 in 22%; larger samples, 5 seeds: [5]
