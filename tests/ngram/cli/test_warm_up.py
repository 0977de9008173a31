"""`python -m ngram warm-up` leaves nothing to compile for the commands that follow, which say so when they compile themselves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ngram.private_files import VARIABLE
from tests.support import loaded, tiny
from tests.support.paths import ROOT

# Runs commands one after the other and prints which kernels each asked the cache for: those, for these argument types, it needs as
# machine code; a kernel that an earlier command has asked for is not asked for again.
ASKED = """
import json, runpy, sys
from ngram import compiled
load = compiled.KernelCache.load_overload
def loading(self, signature, context):
    print("asked", self._function.__module__, self._function.__qualname__, signature)
    return load(self, signature, context)
compiled.KernelCache.load_overload = loading
for command in json.loads(sys.argv[1]):
    print("command", *command, flush=True)
    sys.argv = command
    try:
        if command[0].endswith(".py"):
            runpy.run_path(command[0], run_name="__main__")
        else:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
"""


def process(*command: object, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run([loaded.python(), *map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def asked(commands: Sequence[Sequence[object]]) -> list[set[str]]:
    """Which of our kernels each command asks for."""
    said = process("-c", ASKED, json.dumps([list(map(str, one)) for one in commands])).stdout
    return [{line for line in part.splitlines() if line.startswith("asked ngram")} for part in f"\n{said}".split("\ncommand ")[1:]]


def copy_of_the_cache(folder: Path) -> Path:
    """This user's compiled kernels (compiled first if they are not there), copied to `folder` for SEEDGRAM_CACHE_DIR; where they lie in it."""
    kept_in = json.loads(process("-m", "ngram", "warm-up").stdout)["kept_in"]
    if kept_in is None:  # switched off for this user
        return Path(json.loads(process("-m", "ngram", "warm-up", **{VARIABLE: str(folder)}).stdout)["kept_in"])
    shutil.copytree(kept_in, folder / "kernels" / Path(kept_in).name)
    (folder / "kernels").chmod(0o700)
    return folder / "kernels" / Path(kept_in).name


def test_commands_ask_for_no_kernel_that_the_warm_up_has_not_compiled(tmp_path):
    tiny.write_data(tmp_path)
    tiny.write_artifact(tmp_path / "a.bin", documents=60)
    (tmp_path / "text").write_text(tiny.documents()[0])
    (compiled,) = asked([("ngram", "warm-up")])
    assert len(compiled) > 20
    commands = [
        ("ngram", "train", "--train", tmp_path / "text", "--tokenizer", tmp_path / "tokenizer.model", "--out", tmp_path / "m"),
        ("ngram", "score", "--model", tmp_path / "m", "--test", tmp_path / "text"),
        ("ngram", "score", "--model", tmp_path / "m", "--test", tmp_path / "text", "--online", "kn"),
        ("ngram", "score", "--model", tmp_path / "m", "--test", tmp_path / "text", "--online"),
        ("ngram", "prune", tmp_path / "m", "--out", tmp_path / "m2", "--max-ngrams", "500"),
        ("hybrid", "compress", tmp_path / "text", "-o", tmp_path / "c", "--artifact", tmp_path / "a.bin"),
        ("hybrid", "decompress", tmp_path / "c", "-o", tmp_path / "back", "--artifact", tmp_path / "a.bin"),
        ("hybrid", "score", tmp_path / "text", "--artifact", tmp_path / "a.bin"),
        ("eval.py", "--artifact", tmp_path / "a.bin", "--data", tmp_path),
    ]
    by_command = asked(commands)
    assert len(by_command) == len(commands)
    for command, kernels in zip(commands, by_command, strict=True):
        assert kernels <= compiled, (command, kernels - compiled)
    train, static, _, mixture, _, coder, *_ = map(len, by_command)  # --online kn has what the command before it, of this process, loaded
    assert min(train, static, mixture, coder) > 0 and len(set().union(*by_command)) > 20
    assert (tmp_path / "back").read_bytes() == (tmp_path / "text").read_bytes()


def test_a_start_that_compiles_says_so_in_one_line_the_next_says_nothing(tmp_path):
    kept_in = copy_of_the_cache(tmp_path / "cache")
    whole = {path.name for path in kept_in.iterdir()}
    assert len(whole) > 40
    for path in kept_in.glob("fill_product_rows-*"):  # one stands for the two minutes that all of them take
        path.unlink()
    assert len(whole) > len(list(kept_in.iterdir()))
    start = "import sys; from ngram import compiled, __main__; compiled.ANNOUNCE_AFTER_S = 0; sys.argv = ['ngram', 'warm-up']; __main__.main()"
    first, second = (process("-c", start, **{VARIABLE: str(tmp_path / "cache")}) for _ in range(2))
    assert first.stderr.startswith("compiling kernels for this machine, once") and first.stderr.count("\n") == 1
    assert second.stderr == ""
    assert json.loads(first.stdout)["compile_s"] > 0 and json.loads(second.stdout)["compile_s"] == 0
    assert Path(json.loads(second.stdout)["kept_in"]) == kept_in and {path.name for path in kept_in.iterdir()} == whole


def test_loading_an_artifact_does_not_import_the_compiler_of_torch(tmp_path):
    """It takes longer than all else that a small command does."""
    tiny.write_artifact(tmp_path / "a.bin")
    code = "import sys; from hybrid.storing import artifact; artifact.load(sys.argv[1]); print({'torch._dynamo', 'sympy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.bin"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
