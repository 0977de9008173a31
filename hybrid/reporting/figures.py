"""The figures of a report: each a drawing, what there is to see in it, and the numbers behind it as a table.

Everything here is read from the JSON that build.py makes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hybrid.reporting import drawing
from hybrid.reporting.drawing import Rows, axis

NAMES = {"neural": "network", "ngram": "n-grams", "match": "match", "product": "product", "blend": "blend"}  # in the order of legends
RUN_COLOURS = [f"var(--run{place})" for place in range(1, 7)]
BPB = "bits per byte"
LEAST_TOLD = 5  # tokens in a range of probabilities from which on it is drawn: fewer say nothing about a frequency


@dataclass(frozen=True)
class Figure:
    """title and text for people; drawn: SVG, "" for a table alone; columns and rows: the numbers; wide: as wide as the page."""

    key: str
    title: str
    text: str
    rows: Rows
    columns: dict[str, str]
    drawn: str = ""
    wide: bool = False
    open: bool = False
    formats: dict[str, str] = field(default_factory=dict)


def of_models(found: dict[str, Any]) -> list[str]:
    """The models of a group, in the order of legends."""
    return [name for name in NAMES if name in found]


def model_colours(models: list[str]) -> drawing.Spec:
    return drawing.colour([NAMES[name] for name in models], [f"var(--{name})" for name in models], "model")


def curves(runs: list[dict[str, Any]]) -> Iterator[Figure]:
    """Loss and bits per byte over time, all runs in one drawing."""
    for key, unit, title in (("loss_nats", "nats a token", "Training loss"), ("bpb", BPB, "The same in bits per byte")):
        rows = [
            {"run": run["name"], "text": text, "step": point["step"], "seconds": point["wall_s"], unit: point[key]}
            for run in runs
            for text in ("training", "validation")
            for point in run["curves"][text]
            if point[key] is not None and point["wall_s"] is not None
        ]
        if not rows:
            continue
        names = [run["name"] for run in runs]
        x, y = axis("seconds", "seconds of training"), axis(unit, unit, scale={"zero": False})
        spec = drawing.lines(x, y, drawing.colour(names, RUN_COLOURS, "run"), points=len(rows) < 60)
        spec["encoding"]["strokeDash"] = {"field": "text", "type": "nominal", "sort": None}
        text = "Means of a log window, as training saw them; dashes are validation text during training."
        if key == "bpb":
            text = "The loss on the scale of the results: multiplied by the tokens a byte of the validation text."
        columns = {"run": "run", "text": "text", "step": "step", "seconds": "seconds", unit: unit}
        yield Figure(f"curve-{key}", title, text, rows, columns, drawing.svg(spec, rows))


def sections(run: dict[str, Any]) -> Figure:
    """Bytes by section of the artifact, the code beside it."""
    sizes = dict(run["sections"])
    if run["scores"] and run["scores"].get("code_bytes"):
        sizes["code"] = run["scores"]["code_bytes"]
    total = sum(sizes.values())
    rows = [
        {"section": name, "bytes": size, "share": size / total, "label": f"{size:,}"}
        for name, size in sorted(sizes.items(), key=lambda pair: -pair[1])
    ]
    spec = drawing.bars(axis("bytes", "bytes", axis={"format": "~s"}), axis("section", "", "nominal", sort=None))
    text = f"{total:,} bytes" + (", of which the code is what train_gpt.py and eval.py import." if "code" in sizes else " of artifact.")
    columns = {"section": "section", "bytes": "bytes", "share": "share"}
    return Figure("sections", "Where the bytes go", text, rows, columns, drawing.svg(spec, rows), formats={"share": ".1%"})


def clock(run: dict[str, Any]) -> Figure | None:
    """Seconds by phase of training and by part of the evaluation."""
    rows = [
        {"of": phase, "part": part, "seconds": seconds, "name": f"{phase}: {part}", "label": f"{seconds:,.1f} s"}
        for phase, parts in run["clock"].items()
        for part, seconds in parts.items()
    ]
    if not rows:
        return None
    colours = drawing.colour(["training", "evaluation"], ["var(--neural)", "var(--ngram)"], "of")
    spec = drawing.bars(axis("seconds", "seconds"), axis("name", "", "nominal", sort=None), colours)
    text = "Training one after the other; the parts of an evaluation are work that goes on side by side, within its wall time."
    return Figure("clock", "Where the time goes", text, rows, {"of": "of", "part": "part", "seconds": "seconds"}, drawing.svg(spec, rows))


def _by_model(groups: Rows, labels: list[str], models: list[str]) -> Rows:
    """A row a group and model."""
    return [
        {"group": label, "model": NAMES[name], BPB: found["bpb"][name], "tokens": found["tokens"], "bytes": found["bytes"]}
        for label, found in zip(labels, groups, strict=True)
        for name in models
        if found["bpb"][name] is not None
    ]


def _grouped(key: str, title: str, text: str, rows: Rows, models: list[str], what: str) -> Figure:
    x, y = axis("group", what, "ordinal", sort=None, axis={"labelAngle": -30 if len(rows) > 7 * len(models) else 0}), axis(BPB, BPB, scale={"zero": True})
    spec = drawing.lines(x, y, model_colours(models))
    columns = {"group": what, "model": "model", BPB: BPB, "tokens": "tokens", "bytes": "bytes"}
    return Figure(key, title, text, rows, columns, drawing.svg(spec, rows))


def by_order(stretch: dict[str, Any]) -> Figure | None:
    groups, models = stretch["by_order"], of_models(stretch["bpb"])
    if not groups:
        return None
    rows = _by_model(groups, [str(found["order"]) for found in groups], models)
    text = "How many tokens long the longest context was that the cache had seen: long contexts are where n-grams help."
    return _grouped("by-order", "Bits per byte by matched order", text, rows, models, "tokens of the longest context seen")


def by_position(stretch: dict[str, Any]) -> Figure:
    groups, models = stretch["by_position"], of_models(stretch["bpb"])
    rows = _by_model(groups, [str(found["low"]) if found["low"] == found["high"] else f"{found['low']}–{found['high']}" for found in groups], models)
    text = "How many tokens of its document stand before a token: what is learned from the text itself shows at the right."
    return _grouped("by-position", "Bits per byte by place in the document", text, rows, models, "tokens of the document before it")


def by_document(stretch: dict[str, Any]) -> Figure:
    documents = stretch["by_document"]
    rows = [
        {"document": found["document"], "begins": found["title"], "bytes": found["bytes"], "network": found["bpb"]["neural"]}
        | {"blend": found["bpb"]["blend"], "gain": found["gain"]}
        for found in documents
    ]
    zero = {"mark": {"type": "rule", "color": drawing.SOFT, "strokeDash": [4, 4], "aria": False}, "encoding": {"y": {"datum": 0}}}
    x, y = axis("bytes", "bytes of the document", scale={"type": "log"}), axis("gain", "bits per byte saved over the network")
    dots = {"mark": {"type": "point", "filled": True, "color": "var(--blend)", "opacity": 0.7, "size": 50}, "encoding": {"x": x, "y": y}}
    count = stretch["documents"]
    text = f"{count:,} document{'s' if count != 1 else ''}; above the line the blend is shorter than the network alone."
    text += "" if count == len(rows) else f" {len(rows):,} of them are shown."
    columns = {name: name for name in rows[0]} if rows else {}
    return Figure("by-document", "Gain by document", text, rows, columns, drawing.svg({"layer": [zero, dots]}, rows))


def gate(stretch: dict[str, Any]) -> Figure | None:
    """The experts' mean weights over every feature that the gate looks at."""
    models = of_models(stretch["mean_weights"])
    rows = [
        {"feature": name.replace("_", " "), "value": found["mean"], "model": NAMES[model], "weight": found["weights"][model], "tokens": found["tokens"]}
        for name, groups in stretch["gate"].items()
        for found in groups
        for model in models
    ]
    if not rows:
        return None
    plots = [_weights_plot(name, models) for name in dict.fromkeys(row["feature"] for row in rows)]
    spec = {"concat": plots, "columns": 4, "resolve": {"scale": {"x": "independent"}}}
    text = "Mean weights of the experts over each feature of the context, in ten groups of equally many tokens. The gate sees nothing else."
    columns = {name: name for name in ("feature", "value", "model", "weight", "tokens")}
    return Figure("gate", "What the gate does", text, rows, columns, drawing.svg(spec, rows), wide=True)


def _weights_plot(feature: str, models: list[str]) -> drawing.Spec:
    """Shares of the experts over one feature, as an area."""
    x = axis("value", "", axis={"tickCount": 4, "title": None}, scale={"zero": False, "nice": False})
    y = axis("weight", "", stack=True, scale={"domain": [0, 1]}, axis={"format": "%", "tickCount": 3, "title": None})
    encoding = {"x": x, "y": y, "color": model_colours(models)}
    only = {"filter": {"field": "feature", "equal": feature}}
    return {"title": feature, "transform": [only], "mark": {"type": "area"}, "width": 210, "height": 100, "encoding": encoding}


def calibration(stretch: dict[str, Any]) -> Figure | None:
    found = stretch["calibration"]
    models = of_models(found)
    rows = [
        {"model": NAMES[name], "said": bin["expected"] / bin["count"], "came": bin["came"] / bin["count"], "expected": bin["expected"]}
        | {"times": bin["came"], "probabilities": bin["count"], "error": found[name]["error"]}
        for name in models
        for bin in found[name]["bins"]
    ]
    if not rows:
        return None
    ends = [{"said": 0, "came": 0}, {"said": 1, "came": 1}]
    level = {"data": {"values": ends}, "mark": {"type": "line", "color": drawing.SOFT, "strokeDash": [4, 4], "aria": False}}
    x, y = axis("said", "probability that was said"), axis("came", "share that came")
    level["encoding"] = {"x": x, "y": y}
    told = drawing.lines(x, y, model_colours(models))
    drawn = drawing.svg({"layer": [level, told]}, [row for row in rows if max(row["expected"], row["times"]) >= LEAST_TOLD])
    errors = ", ".join(f"{NAMES[name]} {found[name]['error']:.1%}" for name in models)
    positions = next(iter(found.values()))["positions"]
    text = f"All probabilities at {positions:,} positions; on the dashed line a model means what it says. Share of tokens off it: {errors}."
    text += f" Ranges with fewer than {LEAST_TOLD} tokens are in the table only."
    columns = {name: name for name in ("model", "said", "came", "expected", "times", "probabilities")}
    return Figure("calibration", "Calibration", text, rows, columns, drawn)


def audit(run: dict[str, Any]) -> Figure | None:
    """The sums of all audited distributions; a table of verdicts where an older audit has no histogram."""
    found = run["audit"]
    if not found:
        return None
    verdicts = [f"{name} {'held' if verdict['passed'] else 'FAILED'}" for name, verdict in found["verdicts"].items()]
    text = f"{found['positions'] or 0:,} distributions summed; {', '.join(verdicts)}."
    title = f"Audit: {'passed' if found['passed'] else 'FAILED'}"
    rows = [
        {"sum": edge_label(bin["low"], bin["high"]), "distributions": bin["count"], "label": f"{bin['count']:,}"} for bin in found.get("histogram") or []
    ]
    columns = {"sum": "sum of the probabilities (Z)", "distributions": "distributions"}
    if not rows:
        return Figure("audit", title, text, [{"sum": key, "distributions": value} for key, value in (found["z"] or {}).items()], columns, open=True)
    spec = drawing.bars(axis("distributions", "distributions"), axis("sum", "", "nominal", sort=None)) | {"height": {"step": 26}}
    return Figure("audit", title, text, rows, columns, drawing.svg(spec, rows))


def edge_label(low: float | None, high: float | None) -> str:
    """A range of sums in words; None is no bound."""
    if low is not None and high is not None and low < 1 < high and high - low < 1e-3:
        return f"1 ± {max(high - 1, 1 - low):.0e}"
    return f"{'…' if low is None else f'{low:.7g}'} – {'…' if high is None else f'{high:.7g}'}"


def ablation(run: dict[str, Any]) -> Figure | None:
    rows = run["ablation"]
    if not rows:
        return None
    columns = {"text": "text", "part": "part, with all above it", "bpb": BPB, "change": "change", "tokens_per_s": "tokens/s"}
    text = "What each kind of learning at evaluation is worth."
    return Figure("ablation", "Ablation", text, rows, columns, formats={"change": "+.4f", "tokens_per_s": ",.0f"}, open=True)


def of_run(run: dict[str, Any]) -> list[Figure]:
    """Every figure of one run that its files allow."""
    found: list[Figure | None] = [sections(run), clock(run), audit(run), ablation(run)]
    if stretch := run["stretch"]:
        found = [by_order(stretch), by_position(stretch), by_document(stretch), calibration(stretch), gate(stretch), *found]
    return [figure for figure in found if figure is not None]
