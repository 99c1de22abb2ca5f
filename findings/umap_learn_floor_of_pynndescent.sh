#!/usr/bin/env bash
# umap-learn 0.5.6 asks for pynndescent>=0.5 and any numpy from 1.17: with pynndescent 0.5.12 beside numpy 2 `pip check` finds nothing wrong,
# and `import umap` fails, since pynndescent names np.infty, which numpy 2 took away. 0.5.13 works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet --no-compile umap-learn==0.5.6 pynndescent==0.5.12 numpy==2.0.2 numba==0.60.0 scikit-learn==1.5.2 scipy==1.13.1 setuptools
"${pip[@]}" check
said=$("$folder/venv/bin/python" -W ignore -c "import umap" 2>&1 | tail -1) || true
echo "import umap, with pynndescent 0.5.12 and numpy 2.0.2: $said"
case "$said" in *np.infty*) ;; *) exit 1 ;; esac
"${pip[@]}" install --quiet --no-compile pynndescent==0.5.13 numpy==2.0.2
"$folder/venv/bin/python" -W ignore -c "import umap; print('import umap, with pynndescent 0.5.13 and numpy 2.0.2: works')"
# Seen on 2026-11-28:
# No broken requirements found.
# import umap, with pynndescent 0.5.12 and numpy 2.0.2: AttributeError: `np.infty` was removed in the NumPy 2.0 release. Use `np.inf` instead.. Did you 
# import umap, with pynndescent 0.5.13 and numpy 2.0.2: works
