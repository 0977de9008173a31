"""The short version of a report, for a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hybrid.reporting.figures import NAMES, of_models
from hybrid.reporting.page import COMPARED, FORMATS, facts, shown

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 48  # characters of a curve


def show(report: dict[str, Any]) -> None:
    """Prints it."""
    console = Console(highlight=False, markup=False)
    table = Table(title="runs", title_justify="left", show_header=False)
    for _ in range(1 + len(report["compared"])):
        table.add_column(justify="right" if table.columns else "left")
    for name, title in COMPARED.items():
        if any(row[name] is not None for row in report["compared"]):
            table.add_row(title, *(cell(row[name], FORMATS.get(name, "")) for row in report["compared"]))
    console.print(table)
    for run in report["runs"]:
        show_run(console, run)


def show_run(console: Console, run: dict[str, Any]) -> None:
    """One run: what it is, its curve, bytes, seconds, and bits per byte by matched order."""
    console.print(f"\n{run['name']}  {facts(run)}", style="bold", soft_wrap=True)
    losses = [point["loss_nats"] for point in run["curves"]["training"] if point["loss_nats"] is not None]
    if losses:
        console.print(f"loss    {spark(losses)}  {losses[0]:.3f} → {losses[-1]:.3f} nats a token")
    console.print("bytes   " + ", ".join(f"{name} {size:,}" for name, size in sorted(run["sections"].items(), key=lambda pair: -pair[1])), soft_wrap=True)
    for phase, parts in run["clock"].items():
        if parts:
            console.print(f"{phase:<10}  " + ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in parts.items()), soft_wrap=True)
    if audit := run["audit"]:
        said = ", ".join(f"{name} {'held' if verdict['passed'] else 'FAILED'}" for name, verdict in audit["verdicts"].items())
        console.print(f"audit   {'passed' if audit['passed'] else 'FAILED'}: {said}")
    if stretch := run["stretch"]:
        show_stretch(console, stretch)
    for line in run["missing"]:
        console.print(f"not here: {line}", style="dim", soft_wrap=True)


def show_stretch(console: Console, stretch: dict[str, Any]) -> None:
    """Bits per byte of each model: of the stretch, and by matched order."""
    models = of_models(stretch["bpb"])
    table = Table(title=f"bits per byte of {stretch['tokens']:,} tokens, {stretch['bytes']:,} bytes", title_justify="left")
    for title in ("longest context seen", "tokens", *(NAMES[name] for name in models)):
        table.add_column(title, justify="right")
    groups = [(str(found["order"]), found) for found in stretch["by_order"]]
    for label, found in [*groups, ("all", stretch)]:
        table.add_row(label, f"{found['tokens']:,}", *(cell(found["bpb"][name], ".4f") for name in models))
    console.print(table)
    errors = ", ".join(f"{NAMES[name]} {found['error']:.1%}" for name, found in stretch["calibration"].items())
    if errors:
        console.print(f"probabilities off what came: {errors} of tokens", soft_wrap=True)


def cell(value: Any, form: str) -> str:
    return "–" if value is None else value if isinstance(value, str) else shown(value, form)


def spark(values: list[float]) -> str:
    """A curve as a line of blocks: means of equal parts, the lowest of them lowest."""
    count = min(SPARK, len(values))
    means = [sum(part) / len(part) for part in (values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count))]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((value - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for value in means)
