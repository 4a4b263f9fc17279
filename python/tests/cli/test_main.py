"""The dispatcher: help, exit codes, and messages instead of tracebacks for what a user can cause."""

import errno
import os
import subprocess
import sys

import pytest

from dither.cli import main as cli
from dither.errors import UserError


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dither", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)


def test_without_a_command_the_usage_is_shown_and_it_is_an_error(capsys):
    assert cli.main([]) == 2
    assert "usage: dither COMMAND" in capsys.readouterr().out


def test_version_names_what_a_result_depends_on(capsys):
    assert cli.main(["--version"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("dither ") and "numpy" in text and "torch" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: dither {command}" in capsys.readouterr().out


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert cli.main(["comapre"]) == 2
    assert "did you mean 'compare'" in capsys.readouterr().err


def test_an_unknown_option_exits_with_2():
    with pytest.raises(SystemExit) as end:
        cli.main(["formats", "--no-such-option"])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("the way out"), 2, "dither: the way out"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.toml"), 2, "No such file: a.toml"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "Permission denied: /x"),
        (OSError(errno.ENOSPC, "full", "/x/y"), 2, "the disk is full (/x/y)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_cause_is_a_message_and_a_code(error, code, says, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.main(["formats"]) == code
    output = capsys.readouterr()
    assert says in output.err and "Traceback" not in output.err and not output.out


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.EIO, "broken disk")])
def test_a_defect_keeps_its_traceback(error, monkeypatch):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli, "dispatch", fail)
    with pytest.raises(type(error)):
        cli.main(["formats"])


@pytest.mark.parametrize("module", ["tyro", "rich"])
def test_without_the_cli_extra_the_bare_command_prints_the_install_line(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main([]) == 2
    assert "pip install 'dither[cli]'" in capsys.readouterr().err


def test_training_without_torch_prints_the_install_line():
    block = "import sys; sys.modules['torch'] = None; from dither.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", block, "train", "x.toml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "dither: torch is not installed; install it with:  pip install 'dither[train]'\n"


def test_studies_without_matplotlib_say_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; import dither.studies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'dither[plot]'"), done.stderr


def test_without_torch_studies_of_published_tables_run_and_those_that_train_say_what_to_install(tmp_path):
    # A finder that knows no torch, since tyro takes a None among sys.modules for a torch that is loaded.
    (tmp_path / "blocked.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from dither.cli.main import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, str(tmp_path / "blocked.py"), "study"]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True)
    lines = listed.stdout.splitlines()
    assert listed.returncode == 0
    assert "porian                 Why Kaplan and Chinchilla disagree" in lines
    assert (
        "pruning                (torch is not installed; install it with:  pip install 'dither[train]')"
        in lines
    )
    refused = subprocess.run([*command, "porian", "pruning"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "dither: torch is not installed; install it with:  pip install 'dither[train]'\n"
    without = {k: v for k, v in os.environ.items() if k != "DITHER_LAW_TABLES"}
    ran = subprocess.run(
        [*command, "over-training", "--quick", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env=without,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "over-training-quick" / "study.html").exists()


def test_formats_starts_without_torch():
    code = "import sys; from dither.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "formats", "e4m3"], capture_output=True, text=True)
    assert "448" in done.stdout and done.stdout.endswith("False\n")


def test_the_module_is_the_command():
    done = run("formats", "no_such_format")
    assert done.returncode == 2
    assert done.stderr.startswith("dither: no format or preset is called 'no_such_format'")
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m dither formats | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr
