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

# The images are Linux on x86-64 with the Python version of the Dockerfile.
python=$(sed -n 's/^ARG BASE=python:\([0-9.]*\)-slim.*$/\1/p' Dockerfile)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lock() { # NAME [OPTION...]
  name=$1
  shift
  {
    echo "# What the image installs, with the hash of every file; made by 'make lock'."
    "$venv/bin/uv" pip compile -q pyproject.toml "$work/build.txt" --generate-hashes \
      --python-version "$python" --python-platform x86_64-manylinux_2_28 \
      --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
  } >"$work/$name.txt"
  mv "$work/$name.txt" "locks/$name.txt"
  echo "locks/$name.txt: $(grep -c '^[A-Za-z0-9].*==' "locks/$name.txt") packages"
}
mkdir -p locks
echo 'setuptools>=77' >"$work/build.txt" # builds the project itself, without downloading anything else
lock controller -c constraints.txt
lock triggers --extra triggers --extra otel -c constraints.txt
# vLLM pins a setuptools of its own.
grep -oE '^[A-Za-z0-9._-]+==[^ ]+' locks/controller.txt | grep -v '^setuptools==' >"$work/common.txt"
lock functions-gpu --extra gpu --extra onnx --extra otel --extra runs --extra mcp -c "$work/common.txt"
# torch for CPUs has an index of its own, from which uv installs it; its companions are not needed.
echo uv >>"$work/build.txt"
printf '%s\n' torch torchvision torchaudio torchcodec triton >"$work/excluded.txt"
lock functions-cpu --extra cpu --extra onnx --extra otel --extra runs --extra mcp -c constraints.txt --excludes "$work/excluded.txt"
