#!/usr/bin/env bash
# Checks that take too long for every submission.  Run by hand; each ends with what it found.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install "[dev]"
"$python" scripts/prepare_data.py --embedded --name docs --out runs/quickstart/data
"$python" scripts/kill_and_resume.py --data runs/quickstart/data --tokenizer runs/quickstart/data/tokenizer.model
HYPOTHESIS_PROFILE=explore "$python" -m pytest -q -n 2
