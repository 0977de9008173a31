"""What quantisation costs and saves: bits a byte lost against bytes, for every width and rounding.

    python scripts/bench/quant.py --checkpoint RUN/checkpoint.bin --data DIR --tokenizer M [--bits 8 6 4] [--embed-bits 16 10 8]
                                  [--tokens 2097152] [--gptq-tokens 131072] [--device cuda] [--json F]

Reads the float weights that a run saves when it ends; train_gpt.py --keep-checkpoint leaves them there.
Prints a Markdown table: bits a byte lost, then the bytes of all weights as they are packed.  GPTQ is calibrated on the first
--gptq-tokens of the training shards; scores are non-overlapping windows of the first --tokens of the validation shards.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

import numpy as np
import torch

from hybrid.data.shards import Stream, find_shards
from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from hybrid.model.hybrid_lm import HybridLM
from hybrid.scoring.report import write_json
from hybrid.settings.config import Config, QuantConfig
from hybrid.storing import byte_codecs, quantise
from hybrid.storing.gptq import second_moments
from hybrid.training import checkpoint
from ngram.errors import run_cli
from ngram.threads import each
from scripts.bench.common import make_parser

ROWS = 16  # windows scored at once
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load_model(path: Path, device: str) -> tuple[Config, HybridLM]:
    """The model of a checkpoint."""
    state = checkpoint.load(path)
    config = Config.from_json(state["config"])
    model = HybridLM(config.model)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), state["parameters"], strict=True):
            parameter.copy_(value)
    return config, model.to(device).eval()


def read_windows(data: Path, split: str, config: Config, count: int) -> torch.Tensor:
    """The first tokens of a split as int64 windows (W, L+1) that overlap by one token."""
    stream, length = Stream(find_shards(data, split), config.model.vocab_size), config.train.seq_len
    windows = max(1, min(count, len(stream) - 1) // length)
    length = min(length, len(stream) - 1)
    tokens = stream.read(0, windows * length + 1).astype(np.int64)
    return torch.from_numpy(np.stack([tokens[i * length : (i + 1) * length + 1] for i in range(windows)]))


@torch.no_grad()
def score(model: HybridLM, windows: torch.Tensor, bytes_: int, device: str) -> float:
    """Bits a byte over all windows."""
    nats = 0.0
    for part in windows.split(ROWS):
        part = part.to(device)
        nats += float(model.token_nll(part[:, :-1], part[:, 1:]).double().sum())
    return bits_per_byte(nats, bytes_)


def measure(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a setting, printed as it is made."""
    config, model = load_model(flags.checkpoint, flags.device)
    windows = read_windows(flags.data, "val", config, flags.tokens)
    stream = np.concatenate([windows[0, :1], windows[:, 1:].reshape(-1)]).astype(np.uint16)
    bytes_ = TokenBytes.from_model(flags.tokenizer).total(stream)
    training = read_windows(flags.data, "train", config, flags.gptq_tokens)
    moments = second_moments(model, (part[:, :-1].to(flags.device) for part in training.split(ROWS)))
    exact = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    base = score(model, windows, bytes_, flags.device)
    print(f"`{config.preset}`: {base:.5f} bits a byte before quantisation, {bytes_:,} bytes of text\n")
    print("| weights | rounding | embeddings | BPB lost | bytes |\n|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for bits in flags.bits:
        for rounding in ("nearest", "gptq"):
            for embed in flags.embed_bits:
                setting = QuantConfig(weight_bits=bits, embed_bits=embed)
                meta, sections = quantise.encode_state(exact, setting, moments if rounding == "gptq" else None)
                model.load_state_dict(quantise.decode_state(meta, sections))
                lost = score(model, windows, bytes_, flags.device) - base
                packed = sum(each(lambda data: len(byte_codecs.compress(data)[1]), sections.values()))
                rows.append({"weight_bits": bits, "rounding": rounding, "embed_bits": embed, "bpb_lost": lost, "bytes": packed})
                figures = [f"INT{bits}", rounding, "fp16" if embed == 16 else f"{embed} bits", f"{lost:+.5f}", f"{packed:,}"]
                print(f"| {' | '.join(figures)} |", flush=True)
    return rows


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F", help="RUN/checkpoint.bin of train_gpt.py --keep-checkpoint")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of training and validation shards")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="M", help="SentencePiece model of the shards")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4], metavar="N", help="of the weights [8 6 4]")
    parser.add_argument("--embed-bits", type=int, nargs="+", default=[16, 10, 8], metavar="N", help="of the embeddings; 16: fp16 [16 10 8]")
    parser.add_argument("--tokens", type=int, default=2_097_152, metavar="N", help="of validation [2097152]")
    parser.add_argument("--gptq-tokens", type=int, default=131_072, metavar="N", help="of training that GPTQ is calibrated on [131072]")
    parser.add_argument("--device", default=DEVICE, help=f"where the network runs [{DEVICE}]")
    parser.add_argument("--json", metavar="F", help="write the rows there too")
    flags = parser.parse_args()
    write_json(flags.json, measure(flags))
    return 0


if __name__ == "__main__":
    run_cli(main)
