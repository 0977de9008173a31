"""One scorer, and the streams that it is shown: read-only, and looked after.

    python -m hybrid.auditing.session     # reads a Recipe and then one request after the other from its standard input

The auditor asks a scorer through here and never touches it.  `Session` answers in this process; `Process` has the same members and
starts another one.  Each call gets a stream of its own: the tokens that the auditor has made known up to some position, and behind them
whatever it likes.  A request and its answer are a length, a line of JSON and the bytes of an array.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
from typing import IO, Any

import numpy as np

from hybrid.auditing.scorer import Recipe, Scorer
from ngram.arrays import F64, Tokens, digest, token_type
from ngram.errors import SeedgramError, one_line

NOTHING = np.zeros(0, np.uint16)


class StreamError(SeedgramError):
    """The scorer has tried to write into the stream that it was given, or has done so."""


def wire_type(vocab_size: int) -> np.dtype[Any]:
    """How tokens are told to another process."""
    return token_type(vocab_size).newbyteorder("<")


class Session:
    """A scorer in this process.  known: tokens that it has been shown, (N,) of the vocabulary's type; `tail` of a call: what stands behind them this time."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.known = scorer, bytearray()
        self.vocab_size = int(scorer.vocab_size)
        self.type = wire_type(self.vocab_size)
        token = getattr(scorer, "resets_at", None)
        self.resets_at = None if token is None else int(token)

    def reset(self) -> None:
        """The scorer goes back to its beginning, and the known stream is empty again."""
        self.known.clear()
        self._guarded("reset", self.scorer.reset)

    def know(self, tokens: Tokens) -> None:
        """Appends tokens to the known stream."""
        self.known += np.asarray(tokens, self.type).tobytes()

    def digest(self) -> str:
        return str(self._guarded("digest", self.scorer.digest))

    def score(self, start: int, stop: int, tail: Tokens = NOTHING) -> F64:
        """What it reports for targets start … stop-1 of the known tokens and `tail` behind them."""
        return self._ask("score", start, stop, tail)

    def rows(self, start: int, stop: int, tail: Tokens = NOTHING) -> F64:
        return self._ask("rows", start, stop, tail)

    def hidden(self, start: int, stop: int, at: int, tails: Tokens) -> F64:
        """(K, V) the distribution of target `at` under each of K tails (K, n) behind what is known; other shapes where an answer has one."""
        found = [self._ask("rows", start, stop, tail) for tail in tails]
        wrong = [rows for rows in found if rows.shape != (stop - start, self.vocab_size)]
        return wrong[0] if wrong else np.stack([rows[at - start] for rows in found])

    def update(self, start: int, stop: int, tail: Tokens = NOTHING) -> None:
        self._ask("update", start, stop, tail)

    def close(self) -> None:
        """Nothing to end in this process."""

    def _ask(self, what: str, start: int, stop: int, tail: Tokens) -> F64:
        data = bytes(self.known) + np.asarray(tail, self.type).tobytes()
        stream = np.frombuffer(data, self.type)  # of immutable bytes: it cannot be made writable
        before = digest(stream)
        found = self._guarded(f"{what} of positions {start}…{stop - 1}", getattr(self.scorer, what), stream, start, stop)
        if digest(stream) != before:
            raise StreamError(f"{what} of positions {start}…{stop - 1} wrote into the stream that it was given")
        return np.zeros(0) if what == "update" else np.asarray(found, dtype=np.float64)

    def _guarded(self, where: str, call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except SeedgramError:
            raise
        except Exception as error:
            if isinstance(error, ValueError) and "read-only" in str(error):
                raise StreamError(f"{where} tried to write into the stream that it was given ({error})") from None
            raise SeedgramError(f"the scorer failed in {where}: {one_line(error)}") from error


class Process:
    """The same in a process of its own, which has imported the factory afresh."""

    def __init__(self, recipe: Recipe) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hybrid.auditing.session"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            _send(self._to, json.loads(recipe.to_json()), b"")
        self._facts: dict[str, Any] | None = None

    @property
    def vocab_size(self) -> int:
        return int(self._told()["vocab_size"])

    @property
    def resets_at(self) -> int | None:
        token: int | None = self._told()["resets_at"]
        return token

    def reset(self) -> None:
        self._call("reset")

    def know(self, tokens: Tokens) -> None:
        self._tell("know", data=tokens)  # nothing comes back

    def digest(self) -> str:
        return str(self._call("digest")[0]["text"])

    def score(self, start: int, stop: int, tail: Tokens = NOTHING) -> F64:
        return self._call("score", start, stop, data=tail)[1]

    def rows(self, start: int, stop: int, tail: Tokens = NOTHING) -> F64:
        return self._call("rows", start, stop, data=tail)[1]

    def hidden(self, start: int, stop: int, at: int, tails: Tokens) -> F64:
        return self._call("hidden", start, stop, at, len(tails), data=tails)[1]

    def update(self, start: int, stop: int, tail: Tokens = NOTHING) -> None:
        self._call("update", start, stop, data=tail)

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.terminate()
        self._process.wait()

    def _told(self) -> dict[str, Any]:
        if self._facts is None:
            self._facts = self._answer()[0]
        return self._facts

    def _call(self, what: str, *numbers: int, data: Tokens = NOTHING) -> tuple[dict[str, Any], F64]:
        self._tell(what, *numbers, data=data)
        return self._answer()

    def _tell(self, what: str, *numbers: int, data: Tokens = NOTHING) -> None:
        self._told()
        with contextlib.suppress(BrokenPipeError):
            _send(self._to, {"what": what, "numbers": [int(n) for n in numbers]}, np.asarray(data, wire_type(self.vocab_size)).tobytes())

    def _answer(self) -> tuple[dict[str, Any], F64]:
        got = _receive(self._from)
        if got is None:
            code = self._process.wait()
            raise SeedgramError(f"the process of the scorer ended with code {code}; what it said is above")
        head, data = got
        if "error" in head:
            raise (StreamError if head["kind"] == "stream" else SeedgramError)(head["error"])
        return head, np.frombuffer(data, "<f8").reshape(head.get("shape", [0]))


def _send(pipe: IO[bytes], head: dict[str, Any], data: bytes) -> None:
    line = json.dumps(head).encode()
    pipe.write(struct.pack("<QQ", len(line), len(data)) + line + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """None at the end of the pipe."""
    sizes = pipe.read(16)
    if len(sizes) < 16:
        return None
    line, data = (int(n) for n in struct.unpack("<QQ", sizes))
    return json.loads(pipe.read(line)), pipe.read(data)


def _serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Makes the scorer that the first message describes and answers until the auditor goes away."""
    first = _receive(asked)
    if first is None:
        return
    try:
        session = Session(Recipe(**first[0]).make())
    except Exception as error:
        reason = str(error) if isinstance(error, SeedgramError) else f"the factory failed: {one_line(error)}"
        _send(answers, {"error": reason, "kind": "factory"}, b"")
        return
    _send(answers, {"vocab_size": session.vocab_size, "resets_at": session.resets_at}, b"")
    while (request := _receive(asked)) is not None:
        data = np.frombuffer(request[1], session.type)
        if request[0]["what"] == "know":
            session.know(data)
            continue
        try:
            _send(answers, *_reply(session, request[0], data))
        except SeedgramError as error:
            _send(answers, {"error": str(error), "kind": "stream" if isinstance(error, StreamError) else "scorer"}, b"")


def _reply(session: Session, head: dict[str, Any], data: Tokens) -> tuple[dict[str, Any], bytes]:
    what, numbers = head["what"], head["numbers"]
    if what == "digest":
        return {"text": session.digest()}, b""
    if what == "reset":
        session.reset()
    elif what == "update":
        session.update(numbers[0], numbers[1], data)
    else:
        if what == "hidden":
            found = session.hidden(numbers[0], numbers[1], numbers[2], data.reshape(numbers[3], -1))
        else:
            found = getattr(session, what)(numbers[0], numbers[1], data)
        return {"shape": list(found.shape)}, np.ascontiguousarray(found, "<f8").tobytes()
    return {}, b""


def main() -> None:
    """What the scorer prints goes to standard error: standard output carries the answers."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
