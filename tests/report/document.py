"""A page taken apart, for tests to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Document(HTMLParser):
    """A page, parsed: element names, attributes, the text of tables by id, all text."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, str | None]] = []

    @classmethod
    def of(cls, page: str) -> Document:
        document = cls()
        document.feed(page)
        document.close()
        return document

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        identity = dict(attributes).get("id")
        if identity:
            self.ids[identity] = ""
        if tag == "table":
            self.tables[identity or f"table {len(self.tables)}"] = []
        elif tag == "tr":
            self._rows().append([])
        elif tag in ("td", "th"):
            self._rows()[-1].append("")
        self._open.append((tag, identity))

    def handle_endtag(self, tag) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data) -> None:
        self.text += data
        for _, identity in self._open:
            if identity:
                self.ids[identity] += data
        if any(tag in ("td", "th") for tag, _ in self._open):
            self._rows()[-1][-1] += data

    def _rows(self) -> list[list[str]]:
        return self.tables[next(reversed(self.tables))]

    def column(self, table: str, heading: str) -> list[str]:
        """The cells of a table's body under ``heading``."""
        head, *body = self.tables[table]
        at = [name.strip() for name in head].index(heading)
        return [row[at].strip() for row in body]


def is_close(shown: str, value: float, digits: int = 4) -> bool:
    return math.isclose(float(shown.replace("−", "-")), value, abs_tol=0.51 * 10**-digits)
