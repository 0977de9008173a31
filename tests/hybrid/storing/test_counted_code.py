"""The counted code is what training and evaluating import: no file less, and none that only other commands use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.storing.counted_code import code_bytes, counted_files
from ngram.errors import SeedgramError
from tests.support.paths import ROOT


def names(root: Path = ROOT) -> set[str]:
    return {path.relative_to(root).as_posix() for path in counted_files(root)}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_imports_are_followed_wherever_they_stand(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train_gpt.py": "import json\nfrom hybrid import far\n",
            "eval.py": "def main():\n    import ngram.deep.leaf as leaf\n",
            "hybrid/__init__.py": "",
            "hybrid/far.py": "from hybrid.near import (\n    something,\n)\n",
            "hybrid/near.py": "something = 1\n",
            "hybrid/unused.py": "from ngram import alone\n",
            "ngram/__init__.py": '"""from ngram import alone"""\n',
            "ngram/alone.py": "",
            "ngram/deep/__init__.py": "",
            "ngram/deep/leaf.py": "import hybrid.far\n",
        },
    )
    assert names(tmp_path) == {
        "train_gpt.py",
        "eval.py",
        "hybrid/__init__.py",
        "hybrid/far.py",
        "hybrid/near.py",
        "ngram/__init__.py",
        "ngram/deep/__init__.py",
        "ngram/deep/leaf.py",
    }


def test_everything_that_the_entry_scripts_load_is_counted() -> None:
    """The closure is computed from the sources; this is what Python itself loads."""
    code = (
        "import json, sys, eval, train_gpt, hybrid.scoring.evaluate, hybrid.training.run\n"  # the last two are what they load when they work
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('hybrid', 'ngram', 'eval', 'train_gpt')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(name).relative_to(ROOT).as_posix() for name in json.loads(done.stdout)}
    assert len(loaded) >= 60
    assert loaded <= names()


def test_what_only_other_commands_use_is_not_counted() -> None:
    assert not {name for name in names() if name.startswith(("ngram/cli/", "ngram/arpa/", "ngram/mixture/"))}
    assert not {name for name in names() if name.startswith(("hybrid/auditing/", "hybrid/coding/", "hybrid/reporting/"))}
    assert not {"hybrid/__main__.py", "hybrid/cli/seedgram.py", "hybrid/cli/audit.py", "hybrid/cli/certify.py"} & names()
    assert not {"ngram/__main__.py", "ngram/documents.py", "hybrid/data/prepare.py", "hybrid/cli/prepare.py"} & names()


def test_without_the_scripts_the_size_is_not_known_rather_than_small(tmp_path: Path) -> None:
    write(tmp_path, {"train_gpt.py": "", "hybrid/__init__.py": ""})
    with pytest.raises(SeedgramError, match=r"eval\.py: missing, so the size of the code is not known; install the package again"):
        counted_files(tmp_path)


def test_the_size_is_that_of_whole_files() -> None:
    assert code_bytes() == sum((ROOT / name).stat().st_size for name in names())


def test_the_size_does_not_grow_back() -> None:
    """A change that has to add to this makes room elsewhere first."""
    assert code_bytes() <= 480_000
