"""What the archive of a submission runs: `python submission.zip train …` is train_gpt.py, `python submission.zip eval …` is eval.py.

archive.py puts this file into the archive as `__main__.py`.  The code is unpacked into a temporary folder that goes when the command
ends: compiled kernels, Triton and torch's compiler read sources as files, and the cache of kernels knows them by their contents.
"""

import io
import os
import runpy
import shutil
import sys
import tarfile
import tempfile
import zipfile

SCRIPTS = {"train": "train_gpt.py", "eval": "eval.py"}
PROOFS = ("audit", "certify")


def main() -> None:
    archive = os.path.abspath(sys.argv[0])
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        sys.exit(f"usage: python {sys.argv[0]} train|eval … ; --help after either of them lists its flags")
    if sys.argv[1] == "eval" and sys.argv[2:3] and sys.argv[2] in PROOFS:
        sys.exit(f"{sys.argv[0]}: {sys.argv[2]} is no part of a submission; use `seedgram {sys.argv[2]}` of the project it was made with")
    with tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True) as folder:
        with zipfile.ZipFile(archive) as whole, tarfile.open(fileobj=io.BytesIO(whole.read("code.tar.xz"))) as code:
            code.extraction_filter = getattr(tarfile, "data_filter", None)
            code.extractall(folder)
        sys.path[0] = folder
        from hybrid.storing.counted_code import SHIPPED

        shutil.copyfile(archive, os.path.join(folder, SHIPPED))  # what code_bytes() finds is the code as it is shipped
        script = os.path.join(folder, SCRIPTS[sys.argv[1]])
        sys.argv[:2] = [script]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
