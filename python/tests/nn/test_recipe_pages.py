"""Every preset has a source and a page that says what, why, from where, and when not."""

import re
from pathlib import Path

import pytest

from dither.nn import Recipe

PAGES = Path(__file__).parents[3] / "docs" / "recipes"


def test_the_list_of_pages_names_every_preset():
    index = (PAGES / "README.md").read_text()
    rows = re.findall(r"^\| \[.*?\]\((\w+\.md)\) \| (.*) \|$", index, flags=re.M)
    listed = set()
    for page, words in rows:
        names = re.findall(r"`(\w+)`", words)
        whole, suffixes = [n for n in names if n[0] != "_"], [n for n in names if n[0] == "_"]
        found = {*whole, *(name + suffix for name in whole for suffix in suffixes)}
        text = (PAGES / page).read_text()
        assert all(f"`{name}`" in text for name in whole), page
        listed |= found
    assert listed == set(Recipe.presets())
    assert {page for page, _ in rows} == {p.name for p in PAGES.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted(PAGES.glob("[a-z]*.md")), ids=lambda page: page.stem)
def test_a_page_says_why_from_where_and_when_not(page):
    for word in ("Source", "When not", "Why", "Cost"):
        assert f"**{word}**" in page.read_text(), word


def test_every_preset_has_a_source_and_a_print():
    for name in Recipe.presets():
        assert len(Recipe.source(name)) > 10 and str(Recipe.get(name)).startswith(name)
