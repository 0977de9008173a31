#!/usr/bin/env python3
"""Makes training and validation shards from text.

python scripts/prepare_data.py --embedded --out data/docs
python scripts/prepare_data.py book.txt --vocab-size 1024 --out data/book
python scripts/prepare_data.py train.jsonl.xz --val val.jsonl.xz --tokenizer fineweb_1024_bpe.model --out data/web
zcat pages.jsonl.gz | python scripts/prepare_data.py - --kind jsonl --out data/pages
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from hybrid.cli.prepare import main
from ngram.errors import run_cli

if __name__ == "__main__":
    run_cli(lambda: main(__doc__))
