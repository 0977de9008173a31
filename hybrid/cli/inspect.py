"""Command line of `seedgram inspect`: what is in an artifact."""

import argparse
from collections.abc import Mapping
from typing import Any

from hybrid.cli.which_artifact import add_artifact, artifact_of
from hybrid.scoring import report
from ngram.container import atomic_write
from ngram.terminal import output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_artifact(parser)
    parser.add_argument("--tokenizer", dest="out", type=output, metavar="F", help="write the tokenizer inside there, to prepare other text with")
    parser.add_argument("--json", type=output, metavar="F", help="write the facts there; - for standard output")


def run(flags: argparse.Namespace) -> int:
    path = artifact_of(flags)
    facts = facts_of(path)
    if flags.out:
        from hybrid.storing import artifact

        atomic_write(flags.out, artifact.load(path).tokenizer)
    show(facts)
    report.write_json(flags.json, facts)
    return 0


def facts_of(path: str) -> dict[str, Any]:
    """Sections in bytes, n-grams, parameters, seeds and settings, after every check that loading makes.  Raises SeedgramError."""
    from hybrid.data import tokenizer  # torch loads here, and not for --help
    from hybrid.model.parameters import count_frozen, count_stored
    from hybrid.storing import artifact
    from ngram import container

    art = artifact.load(path)
    header, sections = container.unpack(container.read_bytes(path), artifact.MAGIC, artifact.VERSION, path)
    sizes = {name: len(section) for name, section in sections.items()}
    table = art.table
    ngrams = None
    if table is not None:
        total = sum(table.sizes())
        ngrams = {"total": total, "orders": list(table.sizes()), "bytes": sizes["ngram"], "bits_each": 8 * sizes["ngram"] / total}
    config, codec = art.config, tokenizer.load(art.tokenizer)
    return {
        "file_bytes": art.size_bytes,
        "sections": {
            name: {"bytes": size, "raw_bytes": header["codecs"][name][1], "codec": header["codecs"][name][0]}
            for name, size in sizes.items()
        },
        "header_bytes": art.size_bytes - sum(sizes.values()),
        "preset": config.preset,
        "seed": config.train.seed,
        "maps": {
            "basis": config.model.basis,
            "seed": config.model.map_seed,
            "number": len(art.header["maps"]),
            "entries": count_frozen(art.model),
        },
        "stored_parameters": count_stored(art.model),
        "ngrams": ngrams,
        "tokenizer": {"pieces": codec.vocab_size, "bos": codec.bos, "byte_pieces": codec.has_all_bytes},
        "config": config.to_json(),
    }


def show(facts: Mapping[str, Any]) -> None:
    """The same for people, settings only where they differ from the defaults."""
    from hybrid.settings.config import GROUPS, Config

    size, maps, ngrams, pieces = facts["file_bytes"], facts["maps"], facts["ngrams"], facts["tokenizer"]
    print(f"preset {facts['preset']}, seed {facts['seed']}: {size:,} bytes")
    parts = {**{name: section["bytes"] for name, section in facts["sections"].items()}, "header": facts["header_bytes"]}
    for name, part in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {name:24} {part:>12,} bytes {part / size:7.2%}")
    print(f"network    {facts['stored_parameters']:,} stored parameters, 8 × bytes / parameters = {_bits(facts):.2f} bits each")
    made = f"{maps['entries']:,} entries in {maps['number']} {maps['basis']} maps from seed {maps['seed']}" if maps["number"] else "none"
    print(f"regenerated  {made}")
    print(
        f"tokenizer  {pieces['pieces']:,} pieces{', with all bytes' if pieces['byte_pieces'] else ', without byte pieces'}, BOS {pieces['bos']}"
    )
    if ngrams is not None:
        print(f"n-grams    {ngrams['total']:,} in {ngrams['bytes']:,} bytes: {ngrams['bits_each']:.3f} bits each")
        print("           " + ", ".join(f"order {n}: {count:,}" for n, count in enumerate(ngrams["orders"], 1)))
    default = Config().to_json()
    print("settings other than the defaults of a new configuration:")
    for group in GROUPS:
        changed = {name: value for name, value in facts["config"][group].items() if value != default[group][name]}
        if changed:
            print(f"  {group:6} " + ", ".join(f"{name} {value}" for name, value in changed.items()))


def _bits(facts: Mapping[str, Any]) -> float:
    """Bits of a stored parameter, as packed."""
    packed = sum(section["bytes"] for name, section in facts["sections"].items() if name.startswith("weights."))
    return 8 * packed / max(1, facts["stored_parameters"])
