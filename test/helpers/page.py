"""A page as its reader sees it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a reader sees of a page: its titles, and the cells of its tables; without an open tag at the end."""

    EMPTY = ("meta", "img", "source", "circle", "rect", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag in self.EMPTY:
            return
        self.open.append(tag)
        if tag == "h2":
            self.titles.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self.titles[-1] += data
        elif self.open[-1:] == ["th"] or "td" in self.open:
            self.tables[-1][-1][-1] += data
