"""Python processes that begin with torch, numba and this project loaded: `python()` is a program to start instead of sys.executable.

Importing those takes 3 to 5 s of processor time, which most tests of a command would spend on every process.  The program hands its
arguments, environment, folder and open files to a server, which forks; the fork runs what was asked for as a Python started from
nothing would, and its end, signals included, becomes the program's own.  What depends on how Python begins (other flags than -c, -m and
-W, other variables in ENVIRONMENT, another project first on PYTHONPATH) is given to a Python started from nothing.

Forks share one hash seed: a test of "the same run gives the same bytes" starts one of the two runs with sys.executable itself.  So does
a test that kills by SIGKILL, since the fork ends a moment after the program, one that asks what a command imports, and one that limits
what a process may take: a fork has the server's limits, umask and process group.
"""

import array
import atexit
import contextlib
import functools
import importlib.abc
import importlib.util
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

ENVIRONMENT = ("NUMBA_", "OMP_", "MKL_", "ATEN_", "PYTHON", "SEEDGRAM_", "XDG_", "HOME", "CUBLAS", "CUDA")  # beginnings of names
BEGINNING = {**os.environ, "OMP_NUM_THREADS": "1"}  # before a test could change it; one thread, as tests.support.training has it
LIBRARIES = ("torch", "torch._dynamo", "torch.distributed", "numba", "sentencepiece")
OURS = ("hybrid.training.run", "hybrid.scoring.evaluate", "hybrid.coding.compress", "hybrid.cli.seedgram", "tests.support.tiny")
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
CLIENT = """\
#!{python} -SI
import array, json, os, signal, socket, sys
words, own = sys.argv[1:], dict(os.environ)
shown = list(words)
while shown[:1] == ["-W"]:
    del shown[:2]
ours = own.get("PYTHONPATH", {root!r}).split(os.pathsep)[0] == {root!r}  # a copy of the project has other code
same = ours and {{k: v for k, v in own.items() if k.startswith({names!r}) and k != "PYTHONPATH"}} == {environment!r}
if not same or not shown or (shown[0].startswith("-") and shown[0] not in ("-c", "-m")):
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
for number in {signals!r}:
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: server.send(bytes([number])))
server.connect({address!r})
asked = json.dumps([words, own, os.getcwd()]).encode()
server.sendmsg([len(asked).to_bytes(4, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(asked)
code = int(server.makefile().read() or 70)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> str:
    """The program's path; its server lives as long as this process.  sys.executable where the system cannot wait for a fork's end."""
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="loaded-"))  # the server removes it
    address, program = str(folder / "socket"), folder / "python"
    environment = {**BEGINNING, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([sys.executable, "-m", __name__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert server.stdin is not None and server.stdout is not None
    atexit.register(lambda: (server.stdin.close(), server.wait(), server.stdout.close()))
    if server.stdout.readline() != b"ready\n":
        raise RuntimeError("the server of loaded processes did not start")
    kept = {name: value for name, value in BEGINNING.items() if name.startswith(ENVIRONMENT) and name != "PYTHONPATH"}
    numbers = [int(number) for number in FORWARDED]
    program.write_text(CLIENT.format(python=sys.executable, root=str(ROOT), names=ENVIRONMENT, environment=kept, signals=numbers, address=address))
    program.chmod(0o755)
    return str(program)


def load() -> None:
    for name in (*LIBRARIES, *OURS):
        importlib.import_module(name)


def serve(address: str) -> None:
    """Forks for each client until stdin ends, then removes the folder of `address`."""
    load()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(64)
        print("ready", flush=True)
        while door in select.select([door, sys.stdin], [], [])[0]:
            client, _ = door.accept()
            if os.fork() == 0:
                door.close()
                os._exit(attend(client, address))
            client.close()
            wait_for_ended(os.WNOHANG)
        wait_for_ended(0)
    shutil.rmtree(Path(address).parent)


def wait_for_ended(options: int) -> None:
    """Collects those who attended a client, so that their processor time counts as the server's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def attend(client: socket.socket, address: str) -> int:
    """Forks what a client asks for, passes its signals on and tells it the end; a client that is gone takes its fork with it."""
    head, files, _, _ = client.recvmsg(4, socket.CMSG_SPACE(12))
    opened = array.array("i", files[0][2])
    with client.makefile("rb") as reader:
        words, environment, folder = json.loads(reader.read(int.from_bytes(head, "little")))
    child = os.fork()
    if child == 0:
        client.close()
        for number, file in enumerate(opened):
            os.dup2(file, number)
            os.close(file)
        become(words, environment, folder, str(Path(address).with_name("python")))
    for file in opened:
        os.close(file)
    ended = os.pidfd_open(child)
    watched: list[Any] = [client, ended]
    while ended not in select.select(watched, [], [])[0]:
        sent = client.recv(1)
        os.kill(child, sent[0] if sent else signal.SIGKILL)
        if not sent:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        client.sendall(str(code).encode())
    return 0


def become(words: list[str], environment: dict[str, str], folder: str, program: str) -> None:
    """Runs the command line in this process as `python` would, and ends it."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)
    sys.executable = program
    while words[0] == "-W":
        warnings.simplefilter(words[1])  # type: ignore[arg-type]
        words = words[2:]
    code: Any = 0
    try:
        run(words)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        traceback.print_exc()
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((code or 0) & 255)


class Said(importlib.abc.InspectLoader):
    """Loads a module from its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, fullname: str) -> str:
        return self.text


def run(words: list[str]) -> None:
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    begin = {"-c": "", "-m": os.getcwd()}.get(words[0], str(Path(words[0]).resolve().parent))
    sys.path[:] = [begin, *paths, *(path for path in sys.path[1:] if path not in paths)]
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        loader = Said(words[1])
        main = importlib.util.module_from_spec(importlib.util.spec_from_loader("__main__", loader))  # type: ignore[arg-type]
        sys.modules["__main__"], main.__spec__ = main, None
        loader.exec_module(main)
    elif words[0] == "-m":
        sys.argv = [words[1], *words[2:]]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
