"""Pages in a headless Chromium: what the page has become after its script ran, and who it tried to reach.

Debian calls the program chromium; where there is none the tests that need it skip.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
OWN = "not an origin"  # what begins the browser's own requests


def opened(page: Path, profile: Path, fragment: str = "") -> tuple[str, list[str]]:
    """(the page's HTML after its script ran, addresses that it asked for).

    No name resolves, so nothing gets an answer; the browser's log still has every request, and says whether a page or the browser itself
    (looking for updates) began it."""
    log = profile / "net.json"
    places = (f"--user-data-dir={profile}", f"--log-net-log={log}", "--host-resolver-rules=MAP * ~NOTFOUND")
    command = [str(CHROMIUM), *QUIET, *places, "--virtual-time-budget=2000", "--dump-dom", f"{page.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {event["url"] for event in events if "url" in event and event.get("initiator", OWN) != OWN}
    return done.stdout, sorted(url for url in asked if not url.startswith(("file:", "data:")))


@dataclass
class Element:
    """An element of a page: its attributes, the elements in it, and all text in it."""

    name: str
    attributes: dict[str, str]
    inside: list["Element"] = field(default_factory=list)
    text: str = ""

    def all(self, name: str, **wanted: str) -> list["Element"]:
        """Elements of that name in it, whose attributes are these (data_table for data-table)."""
        chosen = [] if self.name != name or any(self.attributes.get(k.replace("_", "-")) != v for k, v in wanted.items()) else [self]
        return chosen + [found for child in self.inside for found in child.all(name, **wanted)]


class _Tree(HTMLParser):
    EMPTY = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(made)
        if tag not in self.EMPTY:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        while len(self.open) > 1 and self.open.pop().name != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def parsed(html: str) -> Element:
    """The page as a tree."""
    tree = _Tree()
    tree.feed(html)
    return tree.open[0]
