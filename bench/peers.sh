#!/usr/bin/env bash
# Install the peers that the benchmarks compare with: kachery-cloud into a virtual environment of its own, zarr, icechunk,
# h5py, hdf5plugin (its Blosc), s3fs and boto3 into a second one, DVC, which needs a hundred packages, into a third, restic, borg and
# casync as packages of the system. Whatever cannot be installed is named, and left out by the benchmarks.
#   bench/peers.sh [DIRECTORY [DIRECTORY [DIRECTORY]]]
#       (default .venv-kachery .venv-peers .venv-dvc; PYTHON=python3.12 chooses the interpreter)
set -euo pipefail
directory=${1:-.venv-kachery}
arrays=${2:-.venv-peers}
dvc=${3:-.venv-dvc}
install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"; }

"${PYTHON:-python3}" -m venv "$directory"
install "$directory" "kachery-cloud==0.4.10" "numpy>=2.0"
"$directory/bin/python" -c 'import kachery_cloud, numpy; print("kachery-cloud is ready, with numpy", numpy.__version__)'

"${PYTHON:-python3}" -m venv "$arrays"
install "$arrays" "numpy>=2.0"
for package in "zarr>=3" icechunk h5py hdf5plugin s3fs boto3; do
  module=${package%%>*}
  install "$arrays" "$package" \
    && "$arrays/bin/python" -c "import $module, importlib.metadata as m; print('$module is ready:', m.version('$module'))" \
    || echo "$module is left out: pip could not install $package" >&2
done

"${PYTHON:-python3}" -m venv "$dvc"
install "$dvc" dvc && echo "DVC is ready: $("$dvc/bin/dvc" --version)" || echo "DVC is left out: pip could not install it" >&2

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
