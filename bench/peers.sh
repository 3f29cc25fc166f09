#!/usr/bin/env bash
# Install the peer that bench/engine.py compares with into a virtual environment of its own:
#   bench/peers.sh [DIRECTORY]      (default .venv-kachery; PYTHON=python3.12 chooses the interpreter)
set -euo pipefail
directory=${1:-.venv-kachery}
"${PYTHON:-python3}" -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check "kachery-cloud==0.4.10" "numpy>=2.0"
"$directory/bin/python" -c 'import kachery_cloud, numpy; print("kachery-cloud is ready, with numpy", numpy.__version__)'
