"""The challenge's published shards: which files a variant has, fetched, checked and described by a manifest of ours.

The data set holds, below one folder, `manifest.json` ({"datasets": [{"name", "tokenizer_name", "stats": {"files_train", "files_val"}}],
"tokenizers": [{"name", "model_path"}]}), `datasets/<name>/fineweb_{train,val}_<number>.bin` and `tokenizers/…`.  What is written is
a prepared folder (manifest.py): whatever reads shards checks them against it, and training refuses one that is not there in full.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.data import hub, prepared
from hybrid.data.manifest import CHALLENGE, MANIFEST, TOKENIZER, read_manifest
from hybrid.data.overlap import document_starts, overlap
from hybrid.data.prepare import check_out
from hybrid.data.shards import DataError, Stream, read_shard
from hybrid.data.token_bytes import TokenBytes
from ngram.pieces import Pieces

DATASET, ROOT = "willdepueoai/parameter-golf", "datasets"  # where the challenge publishes, and the folder there
STAGING = ".fetching"
NAME = "fineweb10B_{}"  # of a variant in the manifest

Report = Callable[[str, int, int], None]  # (what is done, bytes or shards done, of how many)


@dataclass(frozen=True)
class FinewebConfig:
    """What to fetch.  variant: "sp1024", "sp8192", …; train_shards: from the first one on; dataset, root, revision: where on the hub."""

    out: str
    variant: str = "sp1024"
    train_shards: int = 1
    dataset: str = DATASET
    root: str = ROOT
    revision: str = "main"

    def settings(self) -> dict[str, Any]:
        """What the folder's contents follow from."""
        return {"hub": self.dataset, "root": self.root, "revision": self.revision, "variant": self.variant, "train_shards": self.train_shards}


@dataclass(frozen=True)
class Plan:
    """Files to fetch: {name in our folder: path below the root}."""

    files: dict[str, str]

    def of(self, split: str) -> list[str]:
        return [name for name in self.files if f"_{split}_" in name]


def fetch(config: FinewebConfig, report: Report, pauses: Sequence[float] = hub.PAUSES_S) -> dict[str, Any]:
    """Fetches a variant into `config.out` and returns the manifest; nothing is asked of the hub when all of it is there ("skipped": True).

    Files that are there and right are kept, so that a second call goes on where a first one was cut off.  Raises DataError in one line."""
    if config.train_shards < 0:
        raise DataError(f"--train-shards {config.train_shards}: must be 0 or more")
    check_out(config.out)
    out = Path(config.out)
    found = read_manifest(out)
    if found.get("settings") == config.settings() and prepared.is_whole(out, found):
        return {**found, "skipped": True}
    prepared.refuse_foreign(out)
    source = hub.Hub(config.dataset, config.revision, pauses)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made: {error.strerror}; choose another --out") from None
    try:
        plan = _plan(config, _manifest(source, config, out))
        _bring(source, config, plan, out, report)
    finally:
        shutil.rmtree(out / STAGING, ignore_errors=True)
    return _describe(config, source.commit, plan, out, report)


def _below(config: FinewebConfig, path: str) -> str:
    return f"{config.root}/{path}".strip("/")


def _manifest(source: hub.Hub, config: FinewebConfig, out: Path) -> dict[str, Any]:
    """The published manifest."""
    (remote,) = source.find([_below(config, MANIFEST)])
    place = out / STAGING / "published.json"
    source.fetch(remote, place, out / STAGING, lambda _: None)
    try:
        published = json.loads(place.read_bytes())
        if not isinstance(published, dict):
            raise ValueError
    except ValueError:
        raise DataError(f"{config.dataset}: {remote.path} is no JSON object; check --dataset and --root") from None
    return published


def _plan(config: FinewebConfig, published: dict[str, Any]) -> Plan:
    """Raises DataError for a variant or a number of shards that is not published."""
    try:
        known = {entry["name"]: entry for entry in published["datasets"]}
        if NAME.format(config.variant) not in known:
            variants = ", ".join(sorted(name.removeprefix(NAME.format("")) for name in known))
            raise DataError(f"{config.dataset}: has no variant {config.variant!r}; it has {variants} (--dataset names another data set)")
        entry = known[NAME.format(config.variant)]
        there = {split: int(entry["stats"][f"files_{split}"]) for split in ("train", "val")}
        model = {entry["name"]: entry.get("model_path") for entry in published["tokenizers"]}[entry["tokenizer_name"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{config.dataset}: its {MANIFEST} is not laid out as expected ({type(error).__name__}); check --root, or report this") from None
    if config.train_shards > there["train"]:
        raise DataError(f"{config.dataset}: {config.variant} has {there['train']} training shards; lower --train-shards {config.train_shards}")
    if not model:
        raise DataError(f"{config.dataset}: {config.variant} has no SentencePiece tokenizer, which is the kind read here; choose another --variant")
    wanted = {"val": there["val"], "train": config.train_shards}
    shards = [f"fineweb_{split}_{number:06d}.bin" for split, count in wanted.items() for number in range(count)]
    folder = f"datasets/{NAME.format(config.variant)}"
    return Plan({TOKENIZER: str(model), **{name: f"{folder}/{name}" for name in shards}})


def _bring(source: hub.Hub, config: FinewebConfig, plan: Plan, out: Path, report: Report) -> None:
    """Every file of the plan, and none of ours beside them; until the end a manifest says that the folder is not complete."""
    remotes = source.find([_below(config, path) for path in plan.files.values()])
    total = sum(remote.size_bytes for remote in remotes)
    there = sum((out / name).stat().st_size for name in plan.files if (out / name).is_file())
    hub.check_space(out, max(0, total - there))
    shards = [name for name in plan.files if name != TOKENIZER]
    for name in set(read_manifest(out).get("shards", {})) - set(shards):
        (out / Path(name).name).unlink(missing_ok=True)
    prepared.write_manifest(out, {"incomplete": True, "shards": dict.fromkeys(shards)})
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        report(label, done, total)

    for number, (name, remote) in enumerate(zip(plan.files, remotes, strict=True), 1):
        label = f"fetching {number} of {len(remotes)}: {name}"
        source.fetch(remote, out / name, out / STAGING, advance)


def _describe(config: FinewebConfig, commit: str, plan: Plan, out: Path, report: Report) -> dict[str, Any]:
    """Reads every shard once, and writes the manifest.  Raises ShardError for files that are no shards of this tokenizer."""
    model = (out / TOKENIZER).read_bytes()
    pieces, counter = Pieces(model), TokenBytes.from_model(model)
    splits, streams = {}, {}
    names = plan.of("train") + plan.of("val")
    entries: dict[str, list[Any]] = {}
    for number, name in enumerate(names, 1):
        report("checking the shards", number, len(names))
        read_shard(out / name, pieces.vocab_size)
        entries[name] = prepared.shard_entry(out / name)
    for split in ("train", "val"):
        if plan.of(split):
            stream = streams[split] = Stream([out / name for name in plan.of(split)])
            documents, size = len(document_starts(stream, pieces.bos)), prepared.bytes_said(counter, stream)
            splits[split] = {"documents": documents, "tokens": len(stream), "bytes": size}
    report("comparing both sides", 0, 0)
    shared = overlap(streams["train"], streams["val"], pieces.bos).documents if len(streams) == 2 else 0
    manifest = {
        "settings": config.settings(),
        "commit": commit,
        "encoding": CHALLENGE,
        "vocab_size": pieces.vocab_size,
        "bos": pieces.bos,
        "tokenizer_sha256": hashlib.sha256(model).hexdigest(),
        "overlap": shared,
        "splits": splits,
        "shards": entries,
        "files": {TOKENIZER: prepared.file_entry(out / TOKENIZER)},
    }
    prepared.write_manifest(out, manifest)
    return manifest

