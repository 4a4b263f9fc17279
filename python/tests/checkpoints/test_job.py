"""Interrupted jobs: killed at any moment they go on, and nothing half-written is ever taken for a whole."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoint_files import tensors, write_file, write_folder

from dither.checkpoints import Observer, quantize
from dither.checkpoints import job as jobs
from dither.errors import UserError

SLOWLY = """
import sys, time
from dither.checkpoints import Observer, job, quantize
class Slow(Observer):
    def tensor(self, row):
        print(row.name, flush=True)
        time.sleep(0.02)
job.SYNC_BYTES = 1
quantize(*sys.argv[1:4], layout=sys.argv[4], observer=Slow())
"""


class Count(Observer):
    def start(self, tensors, nbytes):
        self.left = tensors


class StopError(Exception):
    pass


class StopAfter(Observer):
    """Break off after some tensors, as an error or Ctrl-C does."""

    def __init__(self, n: int) -> None:
        self.n = n

    def tensor(self, row):
        self.n -= 1
        if not self.n:
            raise StopError


def content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("layout", ["dither", "compressed-tensors", "gguf"])
@pytest.mark.parametrize("after", [1, 5, 9])
def test_a_killed_job_goes_on_and_gives_the_same_bytes(layout, after, tmp_path):
    source = write_folder(tmp_path / "m", shards=2)
    suffix = ".gguf" if layout == "gguf" else ""
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"q{suffix}"
    quantize(source, "mxfp4", whole, layout=layout)
    command = [sys.executable, "-c", SLOWLY, str(source), "mxfp4", str(out), layout]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert not out.exists() and out.with_name(out.name + ".part").is_dir()
    ear = Count()
    summary = quantize(source, "mxfp4", out, layout=layout, observer=ear)
    assert summary.resumed >= after - 1 and ear.left == len(tensors()) - summary.resumed
    assert content(out) == content(whole)
    assert all(row.sqnr_db is not None for row in summary.rows if row.quantizer)
    assert not out.with_name(out.name + ".part").exists()


@pytest.mark.slow
def test_killed_at_random_moments_it_always_arrives(tmp_path):
    source = write_folder(tmp_path / "m", shards=3, layers=6)
    quantize(source, "nvfp4", tmp_path / "whole")
    out, command = (
        tmp_path / "q",
        [sys.executable, "-c", SLOWLY, str(source), "nvfp4", str(tmp_path / "q"), "dither"],
    )
    for kill in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(0.25 + 0.011 * kill)
        process.kill()
        process.wait(60)
        if out.exists():
            break
    quantize(source, "nvfp4", out, force=out.exists())
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_journal_cut_within_its_last_line_loses_that_tensor_alone(cut, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "SYNC_BYTES", 1)
    source, out = write_file(tmp_path / "m.safetensors"), tmp_path / "q.safetensors"
    with pytest.raises(StopError):
        quantize(source, "mxfp4", out, observer=StopAfter(6))
    journal = tmp_path / "q.safetensors.part" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert quantize(source, "mxfp4", out).resumed == 5


def test_what_was_not_synced_is_done_again(tmp_path):
    """After a loss of power the journal must not name what the disk never got: lines follow their bytes."""
    source, out = write_file(tmp_path / "m.safetensors"), tmp_path / "q.safetensors"
    with pytest.raises(StopError):
        quantize(source, "mxfp4", out, observer=StopAfter(3))
    lines = (tmp_path / "q.safetensors.part" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 4  # leaving in order writes the rest: the settings and three tensors


def test_other_settings_or_another_source_are_refused(tmp_path):
    source, out = write_file(tmp_path / "m.safetensors"), tmp_path / "q.safetensors"
    with pytest.raises(StopError):
        quantize(source, "mxfp4", out, observer=StopAfter(3))
    with pytest.raises(UserError, match=r"part of another job \(quantizer was mxfp4 and is now nvfp4\)"):
        quantize(source, "nvfp4", out)
    with pytest.raises(UserError, match="part of another job"):
        quantize(source, "mxfp4", out, exempt=["*.0.*"])
    write_file(source, seed=1)
    with pytest.raises(UserError, match=r"part of another job \(another files\)"):
        quantize(source, "mxfp4", out)
    summary = quantize(source, "mxfp4", out, force=True)
    assert summary.resumed == 0 and out.exists()


def test_a_part_whose_file_is_gone_begins_anew(tmp_path):
    source, out = write_file(tmp_path / "m.safetensors"), tmp_path / "q.safetensors"
    with pytest.raises(StopError):
        quantize(source, "mxfp4", out, observer=StopAfter(3))
    os.truncate(tmp_path / "q.safetensors.part" / "q.safetensors", 100)
    assert quantize(source, "mxfp4", out).resumed == 0


def test_what_exists_is_replaced_by_force_alone_and_only_where_it_is_ours(tmp_path):
    source = write_folder(tmp_path / "m")
    quantize(source, "mxfp4", tmp_path / "q")
    with pytest.raises(UserError, match=r"q exists; .* --force"):
        quantize(source, "nvfp4", tmp_path / "q")
    quantize(source, "nvfp4", tmp_path / "q", force=True)
    assert json.loads((tmp_path / "q" / "dither.json").read_text())["tensors"][0]["quantizer"] in (
        None,
        "nvfp4",
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="was not written by dither"):
        quantize(source, "mxfp4", tmp_path / "mine", force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, the output is a folder"):
        quantize(source, "mxfp4", tmp_path / "file", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "m", "mine", "q"]


def test_two_processes_do_not_write_the_same_output(tmp_path):
    source, out = write_file(tmp_path / "m.safetensors"), tmp_path / "q.safetensors"

    class Second(Observer):
        def tensor(self, row):
            with pytest.raises(UserError, match="being written by another process"):
                quantize(source, "mxfp4", out)
            raise StopError

    with pytest.raises(StopError):
        quantize(source, "mxfp4", out, observer=Second())


def test_a_full_disk_is_a_message_and_the_job_goes_on_afterwards(tmp_path, monkeypatch):
    source, out = write_file(tmp_path / "m.safetensors"), tmp_path / "q.safetensors"
    write, calls = os.pwrite, []

    def full(handle, data, at):
        calls.append(at)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, at)

    monkeypatch.setattr(jobs.os, "pwrite", full)
    with pytest.raises(UserError, match=r"no space left on the disk.*give the same command to go on"):
        quantize(source, "mxfp4", out)
    monkeypatch.setattr(jobs.os, "pwrite", write)
    assert quantize(source, "mxfp4", out).resumed > 0


def test_too_little_space_is_said_before_the_work(tmp_path, monkeypatch):
    source = write_file(tmp_path / "m.safetensors")
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"needs [0-9,]+ more bytes and the disk has 1,000 free"):
        quantize(source, "mxfp4", tmp_path / "q.safetensors")
