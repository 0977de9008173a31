"""The report as one page that needs nothing else: no network, no other file.

Its content security policy allows the one script by its digest and no request at all.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from hybrid.extras import need
from hybrid.reporting import figures
from hybrid.reporting.figures import NAMES

HERE = Path(__file__).parent
MOST_BITS = 12.0  # of a token, from which on it has the strongest colour
KINDS = {"best": "Shortest", "worst": "Longest", "gain": "Where the blend saves most over the network"}
COMPARED = {
    "name": "run",
    "preset": "preset",
    "seed": "seed",
    "steps": "steps",
    "train_s": "training, s",
    "train_tokens_per_s": "tokens/s",
    "neural_bpb": "BPB: network",
    "ngram_bpb": "n-grams",
    "blended_bpb": "blend",
    "stretch_bpb": "blend, of the stretch",
    "artifact_bytes": "artifact, bytes",
    "total_bytes": "with code, bytes",
    "device": "device",
}
FORMATS = {"train_s": ".1f", "seed": "d"} | dict.fromkeys(("neural_bpb", "ngram_bpb", "blended_bpb", "stretch_bpb"), ".4f")


def render(report: dict[str, Any]) -> bytes:
    """The page of what build.py made.  Raises SeedgramError where a package that it needs is not installed."""
    check_packages()
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined)
    script = (HERE / "page.js").read_text()
    return (
        environment.get_template("page.html")
        .render(
            report=report,
            tiles=tiles(report),
            compared={"columns": COMPARED, "formats": FORMATS},
            curves=list(figures.curves(report["runs"])),
            figures=[figures.of_run(run) for run in report["runs"]],
            kinds=KINDS,
            names=NAMES,
            models=figures.of_models,
            most_bits=f"{MOST_BITS:g}",
            shown=shown,
            facts=facts,
            heat=heat,
            visible=visible,
            style=(HERE / "page.css").read_text(),
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            data=embedded(report),
        )
        .encode()
    )


def check_packages() -> None:
    """Raises SeedgramError, before any work is done, where a package that the page needs is not installed."""
    need("jinja2", "vl_convert")


def embedded(report: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in, whatever text it holds."""
    return json.dumps(report, separators=(",", ":")).replace("<", "\\u003c")


def tiles(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The first run's figures, large."""
    run, row = report["runs"][0], report["compared"][0]
    scores = run["scores"] or {}
    whole = f"{scores.get('tokens', 0):,} tokens, {scores.get('bytes', 0):,} bytes"
    wanted = [
        ("blended_bpb", "Blend, bits per byte", ".4f", whole),
        ("neural_bpb", "Network alone", ".4f", "the same text"),
        ("stretch_bpb", "Blend, of the stretch", ".4f", f"{row['stretch_bytes'] or 0:,} bytes"),
        ("ngram_bpb", "N-grams alone", ".4f", "the same text"),
        ("total_bytes", "Code and artifact", ",d", "bytes"),
        ("artifact_bytes", "Artifact", ",d", "bytes"),
        ("train_s", "Training", ".0f", "seconds"),
    ]
    told = [tile for tile in wanted if row[tile[0]] is not None and not (tile[0] == "stretch_bpb" and scores)]
    return [{"key": key, "label": label, "value": row[key], "form": form, "note": note} for key, label, form, note in told]


def facts(run: dict[str, Any]) -> str:
    """What a run is, in a line."""
    said = {"preset": run["preset"], "seed": run["seed"], "device": run["device"], "processes": run["world"], "commit": run["commit"]}
    return " · ".join(f"{name} {value}" for name, value in said.items() if value is not None)


def shown(value: float, form: str = "") -> str:
    """A number for people: counts whole, others with four places unless `form` says otherwise."""
    if form:
        return f"{value:{form}}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def heat(bits: dict[str, float]) -> str:
    """CSS variables with the strength of a token's colour under each model, 0 to 1."""
    return ";".join(f"--{name}-bits:{min(1.0, value / MOST_BITS):.2f}" for name, value in bits.items())


def visible(piece: str) -> str:
    """A piece in running text: a new line is shown before it begins."""
    return piece.replace("\n", "⏎\n")
