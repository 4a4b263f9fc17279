"""Every preset has a source and a page that says what, why, from where, and when not."""

import re
from pathlib import Path

import pytest

from dither.nn import Recipe

PAGES = Path(__file__).parents[3] / "docs" / "recipes"


INDEX = (PAGES / "README.md").read_text()
ROWS = re.findall(r"^\| \[.*?\]\((\w+\.md)\) \| (.*) \|$", INDEX, flags=re.M)
"""(page, its presets)"""


def test_the_list_of_pages_names_every_preset():
    rows = ROWS
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


@pytest.mark.parametrize(("page", "words"), ROWS)
def test_a_page_has_a_cost_for_each_of_its_presets_and_the_way_to_the_command(page, words):
    cost = re.search(
        r"\*\*Cost\*\* \(\[how measured\]\(README\.md#costs\)\):(.*?)\n- \*\*When not",
        (PAGES / page).read_text(),
        re.S,
    )
    assert cost and re.search(r"\b[12]\.\d\d\b", cost[1])
    names = re.findall(r"`(\w+)`", words)
    assert len(names) == 1 or all(f"`{name}`" in cost[1] for name in names)
    assert "## Costs" in INDEX and "make bench-recipes" in INDEX


def test_every_preset_has_a_source_and_a_print():
    for name in Recipe.presets():
        assert len(Recipe.source(name)) > 10 and str(Recipe.get(name)).startswith(name)
