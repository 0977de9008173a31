#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them: first those of the numba kernels (the files that look at
# NUMBA_DISABLE_JIT) with the kernels as plain Python, then everything.
# Arguments go to pytest, which then runs alone: scripts/test.sh -k loader
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install "[dev]"
export PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg
if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi
# two workers with one thread each: torch, numba and BLAS would otherwise start a thread a core in every worker
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2
workers="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
# shellcheck disable=SC2046
NUMBA_DISABLE_JIT=1 "$python" -m pytest -q -n "$workers" -p no:cacheprovider $(grep -l NUMBA_DISABLE_JIT tests/test_*.py)
"$python" -m pytest -q -n "$workers" --durations=10
