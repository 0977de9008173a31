"""The page in a real browser: its numbers are those of the JSON, nothing leaves it, and a reader without a mouse gets them too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hybrid.cli import report as command
from hybrid.reporting import page
from ngram.terminal import OneLineParser
from tests.support import browser, runs, tiny

needs_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
LIMIT_BYTES = 6_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with report.html and eval.json of a tiny run, and the report's JSON."""
    folder = tmp_path_factory.mktemp("reported")
    tiny.write_data(folder)
    runs.make_run(folder, folder / "first run <b>")
    parser = OneLineParser(prog="seedgram report")
    command.add_flags(parser)
    places = ["--data", str(folder), "-o", str(folder / "report.html"), "--json", str(folder / "report.json")]
    assert command.run(parser.parse_args([str(folder / "first run <b>"), *places, "--calibrated", "20", "--device", "cpu"])) == 0
    return folder, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def shown(made: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[browser.Element, list[str]]:
    """The page as Chromium shows it, with a link to the third token of the worst passage; and what it asked others for."""
    html, asked = browser.opened(made[0] / "report.html", tmp_path_factory.mktemp("profile"), "#run1-worst-0-2")
    return browser.parsed(html), asked


def table(shown: browser.Element, key: str) -> list[list[float]]:
    """The numbers of a table, row by row."""
    (found,) = shown.all("table", data_table=key)
    return [[float(cell.attributes["data-value"]) for cell in row.all("td") if "data-value" in cell.attributes] for row in found.all("tr")[1:]]


@needs_chromium
def test_the_numbers_on_the_page_are_those_of_the_json(made: tuple[Path, dict[str, Any]], shown: tuple[browser.Element, list[str]]) -> None:
    folder, (run,) = made[0], made[1]["runs"]
    scored = json.loads((folder / "first run <b>" / "eval.json").read_text())
    tiles = {tile.attributes["data-tile"]: float(tile.attributes["data-value"]) for tile in shown[0].all("p") if "data-tile" in tile.attributes}
    assert tiles["blended_bpb"] == scored["blended_bpb"] and tiles["total_bytes"] == scored["total_bytes"]
    orders = [bpb for found in run["stretch"]["by_order"] for bpb in (found["bpb"][name] for name in ("neural", "ngram", "match", "product", "blend"))]
    assert [row[0] for row in table(shown[0], "run1-by-order")] == orders
    assert [row[0] for row in table(shown[0], "run1-sections")] == sorted([*run["sections"].values(), scored["code_bytes"]], reverse=True)
    assert [row[0] for row in table(shown[0], "run1-audit")] == [1, 1, 1, 1]
    assert [row[0] for row in table(shown[0], "run1-ablation")] == [5.25, 2.5]
    assert [row[:3:2] for row in table(shown[0], "training-curve-loss_nats")] == [
        [point["step"], point["loss_nats"]] for text in ("training", "validation") for point in run["curves"][text]
    ]
    seconds = [second for parts in run["clock"].values() for second in parts.values()]
    assert [row[0] for row in table(shown[0], "run1-clock")] == seconds and len(seconds) > 8


@needs_chromium
def test_the_marks_of_a_drawing_say_the_numbers_of_the_json(made: tuple[Path, dict[str, Any]], shown: tuple[browser.Element, list[str]]) -> None:
    """Screen readers get the drawing's own values."""
    (figure,) = shown[0].all("figure", id="run1-by-order")
    labels = [path.attributes["aria-label"] for path in figure.all("path") if path.attributes.get("aria-roledescription") == "point"]
    told = sorted(float(re.search(r"bits per byte: ([\d.]+)", label)[1]) for label in labels)  # type: ignore[index]
    orders = made[1]["runs"][0]["stretch"]["by_order"]
    assert told == pytest.approx(sorted(bpb for found in orders for bpb in found["bpb"].values()), rel=1e-6) and len(told) >= 15


@needs_chromium
def test_a_token_that_is_pointed_at_tells_its_bits_and_what_was_expected(
    made: tuple[Path, dict[str, Any]], shown: tuple[browser.Element, list[str]]
) -> None:
    passages = made[1]["runs"][0]["stretch"]["passages"]
    token = passages["worst"][0]["tokens"][2]
    (told,) = shown[0].all("aside", id="told")
    assert "hidden" not in told.attributes
    cells = [cell.text for cell in told.all("td")]
    assert cells[::2] == [f"{token['bits'][name]:.2f} bits" for name in ("blend", "neural", "ngram", "match", "product")]
    likeliest, probability = token["heads"]["blend"][0]
    visible = passages["pieces"][likeliest].replace(" ", "␣")
    assert cells[1].startswith(f"{visible} {100 * probability:.2g}"[:6])
    spans = shown[0].all("span", id="run1-worst-0-2")
    assert [span.text for span in spans] == [passages["pieces"][token["piece"]]]


@needs_chromium
def test_nothing_leaves_the_page(shown: tuple[browser.Element, list[str]], made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The same page with a picture of another machine in it is kept from asking by its policy; without the policy it does ask."""
    assert shown[1] == []
    whole = (made[0] / "report.html").read_text()
    picture = whole.replace("</h1>", '</h1><img src="https://elsewhere.test/seen.png" alt="">')
    policy = re.search(r"<meta http-equiv=.Content-Security-Policy.*?>", whole)
    assert policy is not None
    for name, html, asked in (("with", picture, []), ("without", picture.replace(policy[0], ""), ["https://elsewhere.test/seen.png"])):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.html").write_text(html)
        assert browser.opened(tmp_path / f"{name}.html", tmp_path / name)[1] == asked


def test_the_page_is_one_small_file_that_names_no_other(made: tuple[Path, dict[str, Any]]) -> None:
    html = (made[0] / "report.html").read_text()
    assert len(html.encode()) < LIMIT_BYTES
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and policy[1].startswith("default-src 'none';") and "unsafe-eval" not in policy[1]
    tree = browser.parsed(html)
    for element in [*tree.all("link"), *tree.all("script"), *tree.all("img"), *tree.all("a"), *tree.all("use"), *tree.all("image")]:
        for name in ("href", "src", "xlink:href"):
            assert element.attributes.get(name, "#").startswith(("#", "data:")), element


def test_every_colour_of_a_drawing_is_one_of_the_page_so_that_dark_shows_it_too(made: tuple[Path, dict[str, Any]]) -> None:
    colours = set(re.findall(r'\b(?:fill|stroke)="([^"]*)"', (made[0] / "report.html").read_text()))
    assert {colour for colour in colours if not colour.startswith("var(--")} <= {"none", "transparent"} and "var(--ink)" in colours


def test_what_a_run_or_a_text_holds_cannot_become_markup(made: tuple[Path, dict[str, Any]]) -> None:
    tree = browser.parsed((made[0] / "report.html").read_text())
    assert all("data-value" in bold.attributes for bold in tree.all("b"))
    assert [title.text for title in tree.all("h1")] == ["first run <b>"]
    hostile = {"text": '</script><script>alert("x")</script>'}
    assert "<" not in page.embedded(hostile) and json.loads(page.embedded(hostile)) == hostile


def test_a_reader_without_a_mouse_or_eyes_gets_all_of_it(made: tuple[Path, dict[str, Any]]) -> None:
    tree = browser.parsed((made[0] / "report.html").read_text())
    assert tree.all("html")[0].attributes["lang"] == "en" and tree.all("main") and tree.all("nav")
    for figure in tree.all("figure"):
        assert figure.all("h3") and figure.all("table"), "every drawing has its numbers as a table"
        assert all(drawing.attributes.get("aria-label") for drawing in figure.all("div") if drawing.attributes.get("role") == "img")
    for text in (part for part in tree.all("p") if part.attributes.get("class") == "text"):
        stops = [token.attributes["tabindex"] for token in text.all("span")]
        assert stops == ["0", *["-1"] * (len(stops) - 1)], "one stop of the Tab key a passage; arrow keys do the rest"
    assert tree.all("label") and all(label.all("input") for label in tree.all("label"))
    assert len({element.attributes["id"] for element in tree.all("span") if "id" in element.attributes}) == len(
        [element for element in tree.all("span") if "id" in element.attributes]
    )
