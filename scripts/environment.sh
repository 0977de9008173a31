# Sourced by quickstart.sh and test.sh: sets `root`, goes there, and offers `install EXTRAS`, `compile_kernels` and `stop MESSAGE`.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
python="$root/.venv/bin/python"
# Threads that spin while they wait take the cores from those they wait for as soon as anything else runs here: one
# training step of the quickstart took 5–18 s instead of 0.8–0.9 s on two busy cores.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

stop() { # the one line a person sees when something cannot go on
    echo "$(basename "$0"): $1" >&2
    exit 1
}

install() { # "[hybrid]" or "[dev]": .venv with the pinned dependencies; nothing to do when that was done with these very files
    local base="${PYTHON:-python3}" stamp done_before
    [ -x "$python" ] && base="$python"
    command -v "$base" >/dev/null || stop "no $base here; install Python 3.11 or newer, or set PYTHON"
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "$("$base" --version) is too old; set PYTHON to 3.11 or newer"
    stamp="$("$base" --version) $root $(cat pyproject.toml constraints.txt | cksum)"
    for done_before in ".venv/.installed$1" ".venv/.installed[dev]"; do # the second holds all that the first does
        if [ "$(cat "$done_before" 2>/dev/null)" = "$stamp" ]; then return 0; fi
    done
    echo "installing into .venv (once; PyTorch is large)"
    if [ ! -x "$python" ]; then
        "$base" -m venv .venv || { rm -rf .venv; stop "$base cannot make a virtual environment; install its venv module (Debian: python3-venv)"; }
    fi
    local quiet="-qq"
    [ -t 1 ] && quiet="" # on a terminal pip shows its own progress bar
    # shellcheck disable=SC2086
    "$python" -m pip install $quiet --disable-pip-version-check -c constraints.txt -e ".$1" ||
        stop "pip could not install the project; its reason is above: network, disk space or a Python without wheels"
    echo "$stamp" >".venv/.installed$1"
}

compile_kernels() { # once for this user, these sources and this processor; later it loads them, which takes about a second
    "$python" -m ngram warm-up >/dev/null || stop "the kernels do not compile; the reason is above"
}
