"""`dither conformance`: exit codes, the table, the JSON report, the vectors."""

import json
import subprocess
import sys

import pytest

from dither.cli.main import main

GOOD = """
import ml_dtypes, numpy as np
DTYPES = {"e4m3": ml_dtypes.float8_e4m3fn, "e2m1": ml_dtypes.float4_e2m1fn}
def cast(x, format):
    return x.astype(DTYPES[format]).astype(np.float32)
"""


def adapter(folder, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def test_only_choices_exit_with_0(tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["conformance", adapter(tmp_path, GOOD), "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "no violations" in text and "not saturated" in text and "not offered" in text
    data = json.loads(report.read_text())
    assert data["conforming"] is True and {r["what"] for r in data["results"]} == {"e4m3", "e2m1"}
    assert data["results"][0]["choices"][0]["clause"] and data["results"][0]["choices"][0]["count"] > 0


def test_violations_exit_with_1_and_name_the_clause(tmp_path, capsys):
    wrong = GOOD + "_right = cast\ndef cast(x, format):\n    return _right(x, format) + np.float32(0)\n"
    report = tmp_path / "report.json"
    assert main(["conformance", adapter(tmp_path, wrong), "--json", str(report)]) == 1
    text = capsys.readouterr().out
    assert "the sign of zero is lost" in text and "OCP OFP8" in text and "there are violations" in text
    assert json.loads(report.read_text())["results"][0]["violations"][0]["example"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a MODULE"),
        (["no_such_module_here"], "no module 'no_such_module_here'"),
        (["torchao_mxx"], "did you mean 'torchao_mx'"),
        (["missing.py"], "there is no file missing.py"),
        (["json"], "neither cast"),
    ],
)
def test_a_module_that_is_no_adapter_exits_with_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["conformance", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def cast(x, format) return x", "cannot be imported"),
        ("import no_such_library", "no_such_library"),
        ("import sys; sys.exit(0)", "ends the process where it is imported"),
        ("def cast(x, format): raise SystemExit(0)", "ends the process where it is asked for"),
    ],
)
def test_a_file_that_cannot_be_imported_exits_with_2(text, says, tmp_path, capsys):
    assert main(["conformance", adapter(tmp_path, text)]) == 2
    assert says in capsys.readouterr().err


def test_the_vectors_are_written(tmp_path, capsys):
    assert main(["conformance", "--write_vectors", str(tmp_path / "v")]) == 0
    assert "casts.jsonl" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "v").iterdir()} == {
        "manifest.json",
        "casts.jsonl",
        "decodes.jsonl",
        "blocks.jsonl",
        "random.jsonl",
    }


def test_torch_is_not_loaded():
    code = (
        "import sys; from dither.cli.main import main\n"
        "main(['conformance', 'ml_dtypes_casts']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr
