"""What quantisation costs and saves: bits a byte lost against bytes, for every width, rounding and codec.

    python scripts/bench_quant.py --checkpoint RUN/checkpoint.bin --data DIR --tokenizer M [--bits 8 6 4] [--embed-bits 16 10 8]
                                  [--tokens 2097152] [--gptq-tokens 131072] [--device cuda] [--json F]

Reads the float weights that a run saves when it ends (the average, when it kept one); train_gpt.py --keep-checkpoint leaves them there.
Prints a Markdown table: bits a byte lost, then the bytes of all weights under each codec.  GPTQ is calibrated on the first
--gptq-tokens of the training shards; scores are non-overlapping windows of the first --tokens of the validation shards.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from hybrid import checkpoint, codecs, quantise
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.config import Config, QuantConfig
from hybrid.data import Stream, find_shards
from hybrid.gptq import second_moments
from hybrid.model import HybridLM
from ngram.errors import run_cli
from ngram.threads import each

ROWS = 16  # windows scored at once


def load_model(path: Path, device: str) -> tuple[Config, HybridLM]:
    """The model of a checkpoint, with averaged weights where the run kept an average."""
    state = checkpoint.load(path)
    config = Config.from_json(state["config"])
    model = HybridLM(config.model)
    values = state["average"]["tensors"] or state["parameters"]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
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
    names = [name for name in codecs.CODECS if codecs.is_installed(name)]
    print("| " + " | ".join(["weights", "rounding", "embeddings", "BPB lost", *names, "best"]) + " |\n" + "|---" * (5 + len(names)) + "|")
    rows: list[dict[str, Any]] = []
    for bits in flags.bits:
        for rounding in ("nearest", "gptq"):
            for embed in flags.embed_bits:
                setting = QuantConfig(weight_bits=bits, embed_bits=embed)
                meta, sections = quantise.encode_state(exact, setting, moments if rounding == "gptq" else None)
                model.load_state_dict(quantise.decode_state(meta, sections))
                lost = score(model, windows, bytes_, flags.device) - base
                jobs = [(data, name) for data in sections.values() for name in names]
                sizes = iter(each(lambda job: len(codecs.compress(*job)[1]), jobs))
                tried = [{name: next(sizes) for name in names} for _ in sections]
                packed = {name: sum(sizes[name] for sizes in tried) for name in names}
                packed["best"] = sum(min(len(data), *sizes.values()) for data, sizes in zip(sections.values(), tried, strict=True))
                rows.append({"weight_bits": bits, "rounding": rounding, "embed_bits": embed, "bpb_lost": lost, "bytes": packed})
                figures = [f"INT{bits}", rounding, "fp16" if embed == 16 else f"{embed} bits", f"{lost:+.5f}", *(f"{size:,}" for size in packed.values())]
                print(f"| {' | '.join(figures)} |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4], metavar="N")
    parser.add_argument("--embed-bits", type=int, nargs="+", default=[16, 10, 8], metavar="N")
    parser.add_argument("--tokens", type=int, default=2_097_152, metavar="N")
    parser.add_argument("--gptq-tokens", type=int, default=131_072, metavar="N")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    rows = measure(flags)
    if flags.json:
        flags.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    run_cli(main)
