"""What the auditor audits, and how it is made anew in a process of its own.

A factory is what makes a scorer: a class or function at the top of a module, `functools.partial` of one with plain arguments, or the
text "package.module:function".  It is passed on by name and never as an object, so that a second process imports it afresh.

Shapes: N tokens of a stream, n targets of a chunk, V vocabulary.
"""

import functools
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ngram.arrays import F64
from ngram.errors import SeedgramError
from ngram.score_first import Tokens

MEMBERS = ("vocab_size", "reset", "score", "rows", "update", "digest")
RERUN = "__audited__"  # what a script is called when it is imported for its factory: its `if __name__ == "__main__"` does not run
HOW = (
    "give a class or function that stands at the top of a module, functools.partial of one with plain arguments (numbers, texts, lists), "
    'or its name as "package.module:function"'
)


class Scorer(Protocol):
    """What an audited scorer must offer.  Position 0 of a stream is given; targets are positions 1 … N-1.

    vocab_size  V
    reset()     back to the state before position 1
    score       (n,) float64: the probability that it reports for targets tokens[start:stop]
    rows        (n, V) float64: the distributions behind them; row i may depend on tokens[: start + i] only
    update      learn the targets tokens[start:stop], after they were scored; do nothing when stateless
    digest      hash of all state that a score can depend on; "" when stateless

    tokens is read-only, and another stream at every call: nothing of it may be kept but what `update` learns.
    A scorer may also say `resets_at`: the token at which its state begins anew, so that a document scores the same in any company."""

    vocab_size: int

    def reset(self) -> None: ...

    def score(self, tokens: Tokens, start: int, stop: int) -> F64: ...

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64: ...

    def update(self, tokens: Tokens, start: int, stop: int) -> None: ...

    def digest(self) -> str: ...


@dataclass(frozen=True)
class Recipe:
    """How to make a scorer in another process.  file: the script, where the factory stands in one that was started."""

    module: str
    name: str
    file: str | None = None
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, factory: "Callable[..., Scorer] | str") -> "Recipe":
        """Raises SeedgramError for a scorer that is made already, and for what another process could not import."""
        if isinstance(factory, str):
            module, colon, name = factory.partition(":")
            if not (module and colon and name):
                raise SeedgramError(f'"{factory}" names no factory; write "package.module:function"')
            return cls(module, name)
        if not isinstance(factory, type) and all(hasattr(factory, name) for name in MEMBERS):
            kind = type(factory).__name__
            raise SeedgramError(
                f"audit_scorer takes what makes a scorer, and this is a {kind} that is made already: a second one must start in a fresh "
                f"process, without what this one has seen. Give {kind} itself, or {HOW}"
            )
        args, kwargs = list[Any](), dict[str, Any]()
        while isinstance(factory, functools.partial):
            args, kwargs = [*factory.args, *args], {**factory.keywords, **kwargs}
            factory = factory.func
        name, module = getattr(factory, "__qualname__", ""), getattr(factory, "__module__", "")
        home = sys.modules.get(module)
        if home is None or _find(home, name) is not factory:
            raise SeedgramError(f"{name or factory!r} cannot be imported by another process: {HOW}")
        plain(name, args, kwargs)
        if module != "__main__":
            return cls(module, name, None, args, kwargs)
        file = getattr(home, "__file__", None)
        if file is None:
            raise SeedgramError(f"{name} was typed in at a prompt, where another process cannot import it: {HOW}")
        return cls(module, name, str(Path(file).resolve()), args, kwargs)

    def make(self) -> Scorer:
        """Imports the factory and calls it.  Raises SeedgramError where it is not there or its scorer lacks something."""
        try:
            home = importlib.import_module(self.module) if self.file is None else _script(self.file)
        except ImportError as error:
            raise SeedgramError(f"the module {self.module} cannot be imported by another process ({error}): {HOW}") from None
        factory = _find(home, self.name)
        if factory is None:
            raise SeedgramError(f"{self.module} has no {self.name}: {HOW}")
        return complete(factory(*self.args, **self.kwargs))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def complete(scorer: Any) -> Scorer:
    """The scorer itself.  Raises SeedgramError, naming what it lacks."""
    missing = [name for name in MEMBERS if not hasattr(scorer, name)]
    if missing:
        raise SeedgramError(f"the factory made a {type(scorer).__name__} without {', '.join(missing)}; see hybrid.auditing.scorer.Scorer")
    return scorer  # type: ignore[no-any-return]


def plain(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Raises SeedgramError where arguments do not survive as JSON."""
    for value in (*args, *kwargs.values()):
        try:
            same = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise SeedgramError(
                f"the argument {value!r:.60} of {name} cannot be told to another process: use numbers, texts, lists and dictionaries of "
                "them, for example the path of a model instead of the model"
            )


def _find(home: ModuleType, name: str) -> Any:
    found: Any = home
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _script(file: str) -> ModuleType:
    if RERUN not in sys.modules:
        spec = importlib.util.spec_from_file_location(RERUN, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[RERUN] = module
        spec.loader.exec_module(module)
    return sys.modules[RERUN]
