"""Results of scripts/queue/run_presets.py: one JSON line a run, made from the run's own files, and the table of them.

A line is known by its key: commit, preset, seed, seconds and what was passed on to train_gpt.py.  `status` is "ok" or "failed".
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid.model.attention import window_of
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import count_frozen, parameter_kind
from hybrid.settings import presets
from hybrid.settings.config import Config
from ngram.container import atomic_write
from ngram.errors import FileFormatError

KEY = ("commit", "preset", "seed", "seconds", "flags")
PHASES = ("merged", "quantised", "compressed", "table", "cache", "gate")  # of packing, as hybrid/training/pack.py logs them

Record = dict[str, Any]


def key_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two lines the same run."""
    return tuple(" ".join(record[name]) if name == "flags" else record[name] for name in KEY)


def read_results(path: Path) -> list[Record]:
    """All lines of a results file, none when there is none.  Raises FileFormatError naming file and line."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            key_of(record)
            if record["status"] not in ("ok", "failed"):
                raise ValueError(f"status {record['status']!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{path}: line {number} is no result ({error}); remove the line") from None
        records.append(record)
    return records


def append_result(path: Path, record: Record) -> None:
    """Adds a line; the file is replaced as a whole, so a kill leaves the old one or the new one."""
    lines = [json.dumps(one) for one in (*read_results(path), record)]
    atomic_write(path, ("\n".join(lines) + "\n").encode())


def events(path: Path) -> Iterator[Record]:
    """Records of a train.jsonl, the line that is being written left out."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            yield json.loads(line)


def flops_per_token(model: HybridLM, config: Config) -> float:
    """Operations of one training step a token: frozen maps have no weight gradient (4 a weight), learned matrices do (6).

    The tied embedding counts once, as the output matrix.  Attention: two products forward, four backward, over what a position sees in the mean."""
    shape = config.model
    learned = sum(p.numel() for name, p in model.named_parameters() if parameter_kind(name, p.ndim) == "matrix" or name == "embedding")
    length = config.train.seq_len
    windows = [min(window_of(shape, layer) or length, length) for layer in range(shape.layers)]
    attention = 12 * shape.d_model * sum(window - window**2 / (2 * length) for window in windows)
    return 4 * count_frozen(model) + 6 * learned + attention


def measured(folder: Path, peak_tflops: float) -> Record:
    """What the files of a finished run say: train.jsonl, summary.json, val.json and fineweb.json of its folder.

    Seconds, bytes, tokens/s; utilisation is a share of peak_tflops, None on a CPU."""
    logged = {event["event"]: event for event in events(folder / "train.jsonl")}  # the last of each: a resumed run says it again
    start, trained, summary = logged["start"], logged["trained"], json.loads((folder / "summary.json").read_bytes())
    config = Config.from_json(start["config"])
    scores = {name: json.loads((folder / f"{name}.json").read_bytes()) for name in ("val", "fineweb") if (folder / f"{name}.json").exists()}
    on_gpu = not start["device"].startswith("CPU")
    flops = flops_per_token(HybridLM(config.model, fill_maps=False), config)
    record: Record = {
        "steps": trained["steps"],
        "tokens_per_s": trained["tokens_per_s"],
        "train_s": trained["wall_s"],
        "warmup_s": trained["warmup_s"],
        "utilisation": trained["tokens_per_s"] * flops / (peak_tflops * 1e12) if on_gpu else None,
        "peak_gpu_bytes": trained.get("peak_gpu_bytes"),
        "weight_bits": config.quant.weight_bits,
        "int_gap_bpb": logged.get("held out", {}).get("gap_bpb"),
        "packing_s": {name: logged[name].get("seconds", logged[name].get("merge_s")) for name in PHASES if name in logged},
        "cache": {name: value for name, value in logged.get("cache", {}).items() if name in ("ngrams", "bytes", "bits_an_ngram")},
        "code_bytes": summary["bytes"]["code"],
        "artifact_bytes": summary["bytes"]["total"] - summary["bytes"]["code"],
        "world": start["world"],
        "device": start["device"],
        "torch": start["torch"],
    }
    for name, score in scores.items():
        kept = ("neural_bpb", "ngram_bpb", "blended_bpb", "tokens", "bytes", "neural_s", "ngram_s")
        record[name] = {figure: score[figure] for figure in kept}
    return record


def _row(record: Record, name: str) -> str:
    def bpb(where: str, figure: str) -> str:
        value = record.get(where, {}).get(figure)
        return "–" if value is None else f"**{value:.4f}**" if figure == "blended_bpb" and record["cache"] else f"{value:.4f}"

    gap = record["int_gap_bpb"]
    rate = record["tokens_per_s"]
    figures = [
        name,
        f"{record['artifact_bytes'] + record['code_bytes']:,}",
        f"INT{record['weight_bits']}",
        "–" if gap is None else f"{gap:+.4f}",
        f"{rate / 1e6:.2f} M" if rate >= 1e5 else f"{rate:,}",
        *(bpb("val", figure) for figure in ("neural_bpb", "ngram_bpb", "blended_bpb")),
        *(bpb("fineweb", figure) for figure in ("neural_bpb", "blended_bpb")),
    ]
    return f"| {' | '.join(figures)} |"


def table(records: Iterable[Record]) -> str:
    """The README's table in Markdown, presets in their order: of each preset, seed and length the newest line, "ok" before "failed"."""
    newest: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=lambda one: one["status"] == "ok"):  # stable: a success stands above any failure
        newest[key_of(record)[1:]] = record
    places = {name: place for place, name in enumerate(presets.names())}
    shown = sorted(newest.values(), key=lambda one: (places.get(one["preset"], len(places)), one["seconds"], one["seed"]))
    names = [one["preset"] for one in shown]
    lines = [
        "| preset | artifact + code, bytes | weights | INT gap | tokens/s | `val` neural | n-gram | **blended** | FineWeb neural | **blended** |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in shown:
        name = f"`{one['preset']}`" + (f", seed {one['seed']}, {one['seconds']:g} s" if names.count(one["preset"]) > 1 else "")
        lines.append(_row(one, name) if one["status"] == "ok" else f"| {name} | failed: {one['last_line'].replace('|', ' ')} |{' |' * 8}")
    done = [one for one in shown if one["status"] == "ok"]
    said = {
        what: ", ".join(sorted({str(one[what]) for one in done if one.get(what)}))
        for what in ("device", "torch", "commit", "seconds", "flags")
    }
    lines += ["", *(f"{what}: {values}" for what, values in said.items() if values)]
    return "\n".join(lines)
