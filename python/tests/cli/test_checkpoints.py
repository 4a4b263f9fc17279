"""`dither quantize` and `dither inspect` on the command line: tables, files, messages, exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dither.cli.inspect import split_formats
from dither.cli.main import main
from dither.cli.quantize import size


@pytest.fixture
def model(tmp_path, monkeypatch):
    """m.safetensors in the working directory: two matrices, an embedding, a norm."""
    random = torch.Generator().manual_seed(0)
    save_file(
        {
            "layers.0.up.weight": torch.randn(64, 128, generator=random),
            "layers.0.down.weight": torch.randn(128, 64, generator=random),
            "embed.weight": torch.randn(10, 64, generator=random),
            "norm.weight": torch.ones(64),
        },
        tmp_path / "m.safetensors",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == code
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return output.out, output.err


def test_quantize_prints_a_table_and_writes_the_file(model, capsys):
    out, err = said(capsys, "quantize", "m.safetensors", "--to", "mxfp4")
    row = next(line.split() for line in out.splitlines() if line.startswith("layers.0.up.weight"))
    assert row[1:4] == ["64x128", "F32", "mxfp4"] and 15 < float(row[4]) < 20
    assert row[5:] == ["32.77", "kB", "4.35", "kB"]
    assert "left as they are (embedding): embed.weight" in out
    assert "left as they are (1 dimension): norm.weight" in out
    assert "2 tensors: 65.54 kB -> 8.70 kB; all 4: 68.35 kB -> 11.52 kB (16.9%)" in out
    assert out.endswith("wrote m-mxfp4.safetensors\n") and (model / "m-mxfp4.safetensors").is_file()
    assert "quantize: 4/4 tensors in" in err


def test_there_and_back_again(model, capsys):
    said(
        capsys,
        "quantize",
        "m.safetensors",
        "--to",
        "int8_row",
        "--out",
        "q.safetensors",
        "--exempt",
        "*down*",
    )
    out, _ = said(capsys, "quantize", "q.safetensors", "--dequantize", "bf16")
    assert out.endswith("wrote q-bf16.safetensors\n")
    back, was = load_file(model / "q-bf16.safetensors"), load_file(model / "m.safetensors")
    assert back["layers.0.up.weight"].dtype == torch.bfloat16
    assert torch.equal(back["layers.0.down.weight"], was["layers.0.down.weight"])


def test_a_dry_run_says_that_nothing_was_written(model, capsys):
    out, _ = said(capsys, "quantize", "m.safetensors", "--to", "mxfp4", "--dry-run")
    assert "nothing was written; without --dry-run it would go to m-mxfp4.safetensors" in out
    assert [p.name for p in model.iterdir()] == ["m.safetensors"]


def test_the_mix_of_inspect_goes_into_quantize(model, capsys):
    out, _ = said(
        capsys, "inspect", "m.safetensors", "--formats", "mxfp8_e4m3,mxfp4", "--budget", "6.5bits", "--json",
        "mix.json", "--html", "map.html",
    )  # fmt: skip
    assert "best mix under" in out and "(the optimum)" in out and "the tensors that hurt most:" in out
    document = json.loads((model / "mix.json").read_text())
    assert sorted(document["mix"].values()) == ["mxfp4", "mxfp8_e4m3"]
    assert "<title>dither inspect" in (model / "map.html").read_text()
    out, _ = said(capsys, "quantize", "m.safetensors", "--to", "mix.json")
    assert (
        "wrote m-mix.safetensors" in out and f"all 4: 68.35 kB -> {size(document['mix_of']['bytes'])}" in out
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m.safetensors"], "give either --to FORMAT"),
        (["m.safetensors", "--to", "mxfp4", "--dequantize", "bf16"], "give either --to FORMAT"),
        (["m.safetensors", "--to", "mxpf4"], "did you mean 'mxfp4'"),
        (["nowhere", "--to", "mxfp4"], "nowhere does not exist"),
        (["model.bin", "--to", "mxfp4"], "but a pickle"),
        (["noise.safetensors", "--to", "mxfp4"], "is no safetensors file"),
        (["m.safetensors", "--to", "mxfp4", "--exempt", "nothing"], "--exempt 'nothing' matches no tensor"),
        (["m.safetensors", "--to", "mxfp4", "--layout", "vllm"], "Layouts: dither, compressed-tensors, gguf"),
        (["m.safetensors", "--to", "noise.json"], "noise.json holds no mix"),
        (["m.safetensors", "--to", "missing.json"], "missing.json"),
        (
            ["m.safetensors", "--dequantize", "bf16", "--only", "*"],
            "takes --out, --force and --dry-run alone",
        ),
        (["m.safetensors", "--dequantize", "bf16"], "holds no quantized tensors"),
        (["m.safetensors", "--to", "mxfp4", "--out", "there.safetensors"], "there.safetensors exists"),
        (["m.safetensors", "--to", "mxfp4:rounding=stochastic"], "seed"),
    ],
)
def test_what_is_wrong_is_one_message(arguments, says, model, capsys):
    (model / "model.bin").write_bytes(b"PK\x03\x04" + bytes(64))
    (model / "noise.safetensors").write_bytes(np.random.default_rng(0).bytes(999))
    (model / "noise.json").write_text("[]")
    (model / "there.safetensors").write_text("")
    _, err = said(capsys, "quantize", *arguments, code=2)
    assert says in err and err.count("\n") == 1 + err.count("quantize: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "1kB"], "the smallest takes"),
        (["--budget", "some"], "a budget is a size such as"),
        (["--objective", "none"], "the objective is relative or absolute"),
        (["--formats", "mxfp4,nvpf4"], "did you mean 'nvfp4'"),
        (["--only", "x*"], "--only 'x*' matches no tensor"),
        (
            ["--json", "no/such/folder.json"],
            "no/such/folder.json cannot be written: No such file or directory",
        ),
    ],
)
def test_inspect_says_what_is_wrong(arguments, says, model, capsys):
    _, err = said(capsys, "inspect", "m.safetensors", *arguments, code=2)
    assert says in err


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_place_that_cannot_be_written_is_said_before_the_work(option, model, capsys):
    out, err = said(capsys, "inspect", "m.safetensors", option, "none/x", code=2)
    assert "none/x cannot be written: No such file or directory" in err and not out
    said(capsys, "inspect", "m.safetensors", "--formats", "mxfp4", option, "x")
    assert sorted(p.name for p in model.iterdir()) == ["m.safetensors", "x"]


def test_quantizers_with_commas_are_split_at_semicolons():
    assert split_formats("mxfp4, nvfp4,") == ["mxfp4", "nvfp4"]
    assert split_formats("mxfp4;format=e2m1,block=16") == ["mxfp4", "format=e2m1,block=16"]
    assert split_formats("mxfp4:scale_rule=ceil,rounding=up") == ["mxfp4:scale_rule=ceil,rounding=up"]


def test_both_commands_work_without_torch(model):
    block = (
        "import sys\nclass No:\n    def find_spec(self, name, *a):\n        if name == 'torch': raise "
        "ImportError(name)\n"
        "sys.meta_path.insert(0, No()); from dither.cli.main import main; sys.exit(main())"
    )
    for arguments in (["quantize", "m.safetensors", "--to", "nvfp4"],
                      ["inspect", "m.safetensors", "--html", "a.html", "--budget", "5bits"]):  # fmt: skip
        command = [sys.executable, "-c", block, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_it_can_be_killed_and_repeated(model, capsys):
    """The whole command, killed by the first signal that finds it at work."""
    random = torch.Generator().manual_seed(1)
    save_file(
        {f"w{i}": torch.randn(512, 512, generator=random) for i in range(8)}, model / "large.safetensors"
    )
    block = (
        "import os, signal, sys; from dither.checkpoints import job; job.SYNC_BYTES = 1; n = []\n"
        "write = job.Job.write\n"
        "def dying(*a):\n    n.append(write(*a))\n    len(n) == 5 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "job.Job.write = dying\nfrom dither.cli.main import main; main()"
    )
    arguments = ["quantize", "large.safetensors", "--to", "nvfp4", "--out", "q.safetensors"]
    done = subprocess.run([sys.executable, "-c", block, *arguments], capture_output=True, timeout=120)
    assert done.returncode == -9 and not (model / "q.safetensors").exists()
    out, _ = said(capsys, *arguments)
    assert "5 tensors were there from an earlier start" in out and out.count(" nvfp4 ") == 8
