"""docs/laws.md: its Python runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "laws.md"


def test_the_page_runs(capsys):
    pytest.importorskip("matplotlib")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 4
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    for part in ("largest scale held out", "approach 2: N* ~ C^0.5", "with competing laws", "42 own runs"):
        assert part in said, part
