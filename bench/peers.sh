#!/usr/bin/env bash
# Install the peers that the benchmarks compare with: kachery-cloud into a virtual environment of its own, zarr, h5py
# and hdf5plugin (its Blosc) into a second one, restic, borg and casync as packages of the system. Whatever cannot be
# installed is named, and left out by the benchmarks.
#   bench/peers.sh [DIRECTORY [DIRECTORY]]      (default .venv-kachery .venv-peers; PYTHON=python3.12 chooses the interpreter)
set -euo pipefail
directory=${1:-.venv-kachery}
arrays=${2:-.venv-peers}
"${PYTHON:-python3}" -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check "kachery-cloud==0.4.10" "numpy>=2.0"
"$directory/bin/python" -c 'import kachery_cloud, numpy; print("kachery-cloud is ready, with numpy", numpy.__version__)'

"${PYTHON:-python3}" -m venv "$arrays"
"$arrays/bin/python" -m pip install --quiet --disable-pip-version-check "numpy>=2.0"
for package in "zarr>=3" h5py hdf5plugin; do
  module=${package%%>*}
  "$arrays/bin/python" -m pip install --quiet --disable-pip-version-check "$package" \
    && "$arrays/bin/python" -c "import $module, importlib.metadata as m; print('$module is ready:', m.version('$module'))" \
    || echo "$module is left out: pip could not install $package" >&2
done

updated=no
for package in restic borgbackup casync; do
  program=${package%backup}
  if command -v "$program" >/dev/null; then
    echo "$program is ready"
  elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    [ "$updated" = yes ] || apt-get update -qq
    updated=yes
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null \
      && echo "$program is ready" || echo "$program is left out: apt-get could not install $package" >&2
  else
    echo "$program is left out: install it with your system's packages (Debian: apt-get install $package)" >&2
  fi
done
