#!/usr/bin/env bash
# Checks that take too long for every submission: kills, soak, fuzzer, fresh property tests.  Run by hand; each ends with what it
# found.  About 3 hours on 2 cores; SOAK_MINUTES and FUZZ_INPUTS shorten it.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install "[dev]"
"$python" scripts/prepare_data.py --embedded --name docs --out runs/quickstart/data
data=(--data runs/quickstart/data --tokenizer runs/quickstart/data/tokenizer.model)
"$python" scripts/kill_and_resume.py "${data[@]}"
"$python" scripts/soak.py "${data[@]}" --minutes "${SOAK_MINUTES:-30}"
OMP_NUM_THREADS=1 "$python" tests/fuzz.py --inputs "${FUZZ_INPUTS:-100000}" --seed "${FUZZ_SEED:-0}"
HYPOTHESIS_PROFILE=explore "$python" -m pytest -q -n 2
