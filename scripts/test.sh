#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them: first those of the numba kernels with the kernels as plain Python
# (tests/support/kernels.py), then everything.
# Arguments go to pytest, which then runs alone: scripts/test.sh -k loader
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install "[dev]"
export MPLBACKEND=Agg
unset PYTHONDONTWRITEBYTECODE # else every process that a test starts would read all sources anew
if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi
# two workers with one thread each: torch, numba and BLAS would otherwise start a thread a core in every worker
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2
workers="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
compile_kernels & # else every worker would; the plain ones need none
compiling=$!
NUMBA_DISABLE_JIT=1 "$python" -m pytest -q -n "$workers" -p no:cacheprovider -m "kernels and not compiled" tests/ngram tests/hybrid/scoring
wait "$compiling"
# worksteal: neighbouring tests run in one worker, which makes what a file's tests share once
"$python" -m pytest -q -n "$workers" --dist worksteal -m "not plain" --durations=10
