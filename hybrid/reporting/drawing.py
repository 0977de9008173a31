"""Plots as SVG: Vega-Lite specifications, drawn by vl-convert when the report is written.

The page then needs no plotting program of its own, shows its plots without JavaScript, and keeps its rule that nothing is loaded or
evaluated.  Colours are CSS variables, so one drawing serves light and dark.  Every mark says its values in its aria-label.
"""

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
WIDTH, HEIGHT = 460, 230  # pixels of a plot without its axes
INK, SOFT, LINE = "var(--ink)", "var(--soft)", "var(--line)"
CONFIG: Spec = {
    "background": "transparent",
    "padding": {"left": 24, "right": 24, "top": 4, "bottom": 4},  # readers' fonts are wider than those that vl-convert measures with
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": 500,
        "titlePadding": 8,
        "domain": False,
    },
    "legend": {"labelColor": INK, "titleColor": SOFT, "orient": "top", "title": None, "labelFontSize": 12, "symbolSize": 80}
    | {"symbolBaseFillColor": INK, "symbolBaseStrokeColor": INK},  # of dashes: Vega's own is black, which a dark page hides
    "title": {"color": INK, "fontSize": 12},
}


def svg(spec: Spec, rows: Rows) -> str:
    """The drawing of a specification over some rows."""
    import vl_convert

    size: Spec = {} if "concat" in spec else {"width": WIDTH, "height": HEIGHT}
    whole = {"data": {"values": rows}, "config": CONFIG, **size, **spec}
    drawn: str = vl_convert.vegalite_to_svg(whole)
    return drawn


def colour(names: Sequence[str], colours: Sequence[str], field: str) -> Spec:
    """The colour channel of a field with these names, in this order."""
    return {"field": field, "type": "nominal", "scale": {"domain": list(names), "range": list(colours)}, "sort": None}


def axis(field: str, title: str, kind: str = "quantitative", **more: Any) -> Spec:
    """A position channel.  more: as in Vega-Lite; scale, axis, sort, stack."""
    return {"field": field, "type": kind, "title": title, **more}


def lines(x: Spec, y: Spec, colours: Spec, *, points: bool = True, **mark: Any) -> Spec:
    return {"mark": {"type": "line", "point": {"size": 36} if points else False, "strokeWidth": 2, **mark}, "encoding": {"x": x, "y": y, "color": colours}}


def bars(value: Spec, name: Spec, colours: Spec | None = None) -> Spec:
    """Horizontal bars, one a row, with the value beside each."""
    mark = {"type": "bar", "cornerRadiusEnd": 3, "color": "var(--neural)"}
    encoding: Spec = {"x": value, "y": {**name, "axis": {"labelLimit": 200, "title": None, "ticks": False}}}
    if colours is not None:
        encoding["color"] = colours
    told: Spec = {"mark": {"type": "text", "align": "left", "dx": 4, "color": SOFT, "fontSize": 11}, "encoding": {"text": {"field": "label"}}}
    told["encoding"] |= {"x": value, "y": encoding["y"]}
    return {"layer": [{"mark": mark, "encoding": encoding}, told]}
