#!/usr/bin/env bash
# From nothing to a trained, packed, reloaded and scored hybrid model and one table, in about three minutes on two cores
# after installation.  What is finished is skipped the next time; delete runs/quickstart to start again.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

run="runs/quickstart"
data="$run/data"

step() { # NAME OUTPUT COMMAND…: runs the command unless OUTPUT was made with the same code and data
    local name="$1" output="$2" code=0
    shift 2
    if [ -f "$output" ] && [ "$(cat "$run/$name.stamp" 2>/dev/null)" = "$fingerprint" ]; then
        echo "$name: already done"
        return 0
    fi
    rm -f "$run/$name.stamp"
    echo "$name"
    "$@" || code=$?
    [ $code -eq 0 ] || [ $code -eq 2 ] || stop "$name failed; the reason is above"
    [ $code -eq 0 ] || exit $code # the program has said its one line
    [ -f "$output" ] || stop "$name left no $output"
    echo "$fingerprint" >"$run/$name.stamp"
}

score() { # eval.py's own table waits in eval.log: the one below has more
    "$python" eval.py --artifact "$run/artifact.bin" --data "$data" --json "$run/eval.json" >"$run/eval.log"
}

install "[hybrid]"
compile_kernels
began=$SECONDS
mkdir -p "$run"
"$python" scripts/prepare_data.py --embedded --name docs --out "$data"
fingerprint="$({ find ngram hybrid -name "*.py" | LC_ALL=C sort | xargs cat; cat train_gpt.py eval.py "$data/manifest.json"; } | cksum)"
step training "$run/artifact.bin" "$python" train_gpt.py --preset quickstart --data "$data" --tokenizer "$data/tokenizer.model" --out "$run" --no-score
step scoring "$run/eval.json" score
"$python" -m hybrid.cli.beside_compressors --eval "$run/eval.json" --data "$data" --tokenizer "$data/tokenizer.model"
echo "$run: $((SECONDS - began)) s after installation"
