"""What README.md and docs/ say is run: every Python block, every command and make target, every link."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dither.cli.main import COMMANDS
from dither.train.config import load
from dither.train.plan import load_plan

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path):
    source = "\n".join(blocks(page, "python"))
    if not source:
        return
    environment = os.environ | {"DITHER_CACHE": str(tmp_path / "cache")}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", source], **options)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_commands_of_a_page_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for line in "\n".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["dither"]:
            assert words[1] in COMMANDS
            for word in words:
                if word.startswith("examples/"):
                    {"train": load, "compare": load_plan}[words[1]](ROOT / word)
        elif words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
