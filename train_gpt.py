"""Trains a hybrid language model under a byte budget and packs it into one artifact.

    python train_gpt.py --preset seed1095 --data DIR --tokenizer M --out RUN [--seconds S | --steps N] [--resume]
    torchrun --standalone --nproc_per_node=2 train_gpt.py …
    python train_gpt.py --preset seed1095 --describe

Reads DIR/*train*.bin and DIR/*val*.bin; writes RUN/artifact.bin, RUN/train.jsonl, RUN/summary.json.  Every setting is a flag.

hybrid/cli/train.py, which `seedgram train` shares, reads the flags; the story is hybrid/training/run.py: check, train, count, merge, pack, score.
"""

from hybrid.cli.train import main as main
from ngram.errors import run_cli

if __name__ == "__main__":
    run_cli(main)
