"""`python -m hybrid`, the command `seedgram` without its look for foreign packages (seedgram.py)."""

import sys

try:
    from ngram.errors import run_cli
except ImportError as error:  # the current folder comes first on Python's path, and a user's own ngram.py with it
    foreign = getattr(sys.modules.get("ngram"), "__file__", None) or "a file or package of that name"
    print(f"ImportError: {foreign} stands where the package ngram should be ({error}); rename it, or use the command seedgram", file=sys.stderr)
    sys.exit(2)

from hybrid.cli import seedgram


def main() -> None:
    run_cli(seedgram.main)


if __name__ == "__main__":
    main()
