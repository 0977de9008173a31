#!/usr/bin/env bash
# Checks that take too long for every submission.  Run by hand; each ends with what it found.  About 3 hours on 2 cores;
# SOAK_MINUTES and FUZZ_INPUTS shorten it.
. "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
install "[dev]"
"$python" scripts/prepare_data.py --embedded --name docs --out runs/quickstart/data
data=(--data runs/quickstart/data --tokenizer runs/quickstart/data/tokenizer.model)
# kills at random moments: the resumed run ends in the same bytes (CPU)
"$python" scripts/checks/kill_and_resume.py "${data[@]}"
# one kill, on the GPU where there is one: the loss curve continues
"$python" scripts/checks/resume_curve.py "${data[@]}" --preset quickstart
# two machines of two processes each, over the loopback interface: counts are those of one process
"$python" scripts/checks/nodes.py
# soak: round after round in one process leaves no memory, thread or file behind
"$python" scripts/checks/soak.py "${data[@]}" --minutes "${SOAK_MINUTES:-30}"
# fuzzer: every parser reads or refuses what it is given
OMP_NUM_THREADS=1 "$python" tests/support/fuzz.py --inputs "${FUZZ_INPUTS:-100000}" --seed "${FUZZ_SEED:-0}"
# the suite once more: its property tests with fresh examples
HYPOTHESIS_PROFILE=explore "$python" -m pytest -q -n 2
# lm-evaluation-harness runs its own loop; its fifty packages go into an environment beside ours
"$python" -m venv runs/lm-eval
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$(runs/lm-eval/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/seedgram.pth"
runs/lm-eval/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt 'lm-eval>=0.4.9'
PYTHONPATH="$root" runs/lm-eval/bin/python -m pytest -q -p no:cacheprovider tests/hybrid/hf/test_harness.py
