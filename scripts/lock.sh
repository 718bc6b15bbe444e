#!/bin/sh
# Writes constraints.txt from what is installed, and the images' locks/ with hashes: sh scripts/lock.sh VENV
# Development tools that only a person uses by hand are left out by not being installed.
set -eu
venv=$1
{
  echo "# Versions that are known to work together; made by 'make lock'."
  "$venv/bin/python" -m pip freeze --exclude-editable --disable-pip-version-check |
    sed 's/ @ .*//' | grep -E '^[A-Za-z0-9._-]+==' | grep -viE '^(torchvision|torchaudio|torchcodec|pip|setuptools)=='
} >constraints.new
mv constraints.new constraints.txt
echo "constraints.txt: $(grep -c == constraints.txt) packages"

# The images are Linux on x86-64 with the Python of a Debian release: 3.11 (Debian 12) to 3.13 (Debian 13). A lock is
# resolved for the oldest; what the newest needs must be in it, at the same version.
oldest=3.11
newest=3.13
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile() { # PYTHON [OPTION...]
  python=$1
  shift
  "$venv/bin/uv" pip compile -q --python-version "$python" --python-platform x86_64-manylinux_2_28 \
    --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
}
names() { grep -oE '^[A-Za-z0-9._-]+==[^ ]+' "$1"; }
lock() { # NAME SOURCE... [OPTION...]
  name=$1
  shift
  {
    echo "# What the image installs, with the hash of every file; made by 'make lock'."
    compile "$oldest" --generate-hashes "$@"
  } >"$work/$name.lock"
  names "$work/$name.lock" >"$work/pinned.txt"
  compile "$newest" "$@" -c "$work/pinned.txt" >"$work/newest.txt"
  if names "$work/newest.txt" | grep -vxFf "$work/pinned.txt"; then
    echo "locks/$name.txt: Python $newest needs these as well" >&2
    exit 1
  fi
  mv "$work/$name.lock" "locks/$name.txt"
  echo "locks/$name.txt: $(names "locks/$name.txt" | wc -l) packages"
}
mkdir -p locks
# Builds the project itself; no image has it from here.
echo 'setuptools>=77' >"$work/build.txt"
lock build "$work/build.txt"
lock controller pyproject.toml -c constraints.txt
lock triggers pyproject.toml --extra triggers --extra otel -c constraints.txt
# vLLM takes no newer setuptools from Python 3.12 on; cuda-python 12 has no build for Python 3.13.
{ names locks/controller.txt && printf '%s\n' 'setuptools<81' 'cuda-python>=13'; } >"$work/common.txt"
lock functions-gpu pyproject.toml --extra gpu --extra onnx --extra otel --extra runs --extra mcp -c "$work/common.txt"
# torch for CPUs has an index of its own; its companions are not needed, what it imports is.
printf '%s\n' torch torchvision torchaudio torchcodec triton >"$work/excluded.txt"
printf '%s\n' filelock fsspec jinja2 networkx 'setuptools<81' sympy typing-extensions >"$work/torch-needs.txt"
lock functions-cpu pyproject.toml "$work/torch-needs.txt" --extra cpu --extra onnx --extra otel --extra runs --extra mcp -c constraints.txt \
  --excludes "$work/excluded.txt"
torch=$(sed -n 's/^\(torch==.*\)$/\1/p' constraints.txt)
if grep -qxF "$torch \\" locks/torch-cpu.txt; then
  echo "locks/torch-cpu.txt: $torch, as before"
else
  echo "$torch" >"$work/torch.txt"
  lock torch-cpu "$work/torch.txt" --no-deps --index https://download.pytorch.org/whl/cpu
fi
