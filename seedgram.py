"""The command `seedgram`, also `python -m seedgram`: hands over to the packages that were installed with this file.

Other projects of the package registry are called `hybrid` and `ngram`, and a user's own script may be: either would take the place of
ours.  Then one line says which file is in the way.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent


def in_the_way(name: str) -> str | None:
    """The file that Python would import as `name` instead of our package; None where it is ours."""
    spec = find_spec(name)
    found = None if spec is None else spec.origin or str(next(iter(spec.submodule_search_locations or []), ""))
    ours = HERE / name / "__init__.py"
    if found is not None and ours.exists() and Path(found).resolve() == ours:
        text = ours.read_text(encoding="utf-8", errors="replace")
        return None if "_HOMES" in text else str(ours)
    return found or "nothing"


def main() -> None:
    """Runs the command, or says in one line why it cannot."""
    for name in ("ngram", "hybrid"):
        foreign = in_the_way(name)
        if foreign is not None:
            print(f"ImportError: {foreign} stands where seedgram's own package {name!r} should be; {remedy(foreign)}", file=sys.stderr)
            sys.exit(2)
    from hybrid.__main__ import main as command

    command()


def remedy(foreign: str) -> str:
    """What to do about a foreign file."""
    if foreign == "nothing" or Path(foreign).is_relative_to(HERE):
        return "pip uninstall hybrid ngram, then pip install --force-reinstall seedgram"
    return "rename it, or start seedgram from another folder and without that folder in PYTHONPATH"


if __name__ == "__main__":
    main()
