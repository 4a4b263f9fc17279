"""The pieces of the page."""

import base64
import html.parser
import re

from dither.report import html as page_of


class Reader(html.parser.HTMLParser):
    """Checks that tags nest and collects them."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_a_page_nests_and_refers_to_nothing_outside():
    text = page_of.page(
        "a <b> & c",
        [
            page_of.heading("head", 1),
            page_of.table(["arm", "loss"], [["fp32", "1.5"]]),
            page_of.picture(b"\x89PNG", "a picture"),
            page_of.details("more", page_of.code("x < y")),
            page_of.terms([("term", "meaning")]),
            page_of.warning("careful"),
        ],
    )
    reader = read(text)
    assert "<title>a &lt;b&gt; &amp; c</title>" in text
    assert not re.search(r"https?://|src=\"(?!data:)", text)
    assert "script" not in {tag for tag, _ in reader.seen}


def test_a_picture_lies_inside_the_page_with_its_caption_as_alternative_text():
    [(_, image)] = [item for item in read(page_of.picture(b"bytes", 'a "caption"')).seen if item[0] == "img"]
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == b"bytes"
    assert image["alt"] == 'a "caption"'


def test_what_the_data_say_is_never_markup():
    text = page_of.table(["<i>"], [["<script>alert(1)</script>"]]) + page_of.code("</code>")
    assert "<script>" not in text and "<i>" not in text and text.count("</code>") == 1
