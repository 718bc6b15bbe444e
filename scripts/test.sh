#!/bin/sh
# Runs the tests: sh scripts/test.sh PYTHON [--without-vllm] [PYTEST ARGUMENTS]
# Most run on every processor at once. Those marked `clock` measure time or load: they run afterwards, alone.
# The tests of snapshots run CRIU 4.1 or later, which scripts/criu.sh provides where it can.
set -u
python=$1
shift
without=""
if [ "${1:-}" = --without-vllm ]; then
  without=" and not vllm"
  shift
fi
mkdir -p build
sh scripts/criu.sh build/criu >/dev/null 2>build/criu.log ||
  echo "no CRIU 4.1 (build/criu.log says why): the tests of snapshots are skipped"
nothing=5 # pytest's exit code when no test was selected: one half of a selection may well be empty

# One more than there are processors: many tests wait for something.
workers=$(($(nproc) + 1))
"$python" -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder -m "not clock$without" "$@"
parallel=$?
if [ $parallel -ne 0 ] && [ $parallel -ne $nothing ]; then exit $parallel; fi
"$python" -m pytest -m "clock$without" "$@"
alone=$?
if [ $alone -eq $nothing ] && [ $parallel -eq 0 ]; then exit 0; fi
exit $alone
