"""Packages that only a part of the program needs, and the extra of the installation that brings each (docs/install.md)."""

from importlib.util import find_spec

from ngram.errors import SeedgramError

EXTRAS = {
    "torch": "hybrid",
    "brotli": "hybrid",
    "matplotlib": "plots",
    "pyarrow": "parquet",
    "huggingface_hub": "hub",
    "transformers": "hf",
    "tokenizers": "hf",
    "safetensors": "hf",
    "lm_eval": "lm-eval",
    "shtab": "completion",
    "vl_convert": "report",
    "jinja2": "report",
    "tensorboard": "tensorboard",
}


class MissingPackageError(SeedgramError, ImportError):
    """A package that this part of the program needs is not installed.  The message says what to install."""


def missing(package: str) -> MissingPackageError:
    """The error for a package, by the name that it is imported under."""
    wanted = f"'seedgram[{EXTRAS[package]}]'" if package in EXTRAS else package
    return MissingPackageError(f"this needs the package {package}, which is not installed; pip install {wanted}", name=package)


def need(*packages: str) -> None:
    """Raises MissingPackageError for the first of some packages that is not installed: before any work, where a file is drawn at its end."""
    for package in packages:
        if find_spec(package) is None:
            raise missing(package)


def explained(error: ModuleNotFoundError) -> ImportError:
    """What to raise in place of a failed import: the error itself where a module of our own is missing, which is a fault in the program."""
    package = (error.name or "hybrid").partition(".")[0]
    return error if package in ("hybrid", "ngram") else missing(package)
