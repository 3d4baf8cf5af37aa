"""The command `heatproof`: help, catalogues, exit codes of what goes wrong, no torch too early."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from by_hand_explanations import scene
from command_line import SOURCES, one_line, shell
from heatproof import index
from heatproof.cli import main

COMMANDS = ("explain", "methods", "models", "audit", "prove", "benchmark", "reproduce")


# Help


def test_the_help_gives_every_command_one_whole_sentence(run):
    """Break: a first line of a command's docstring that does not fit beside its name."""
    out = run("--help")[1]
    listed = dict(re.findall(r"^  (\w+) +(.*)$", out.partition("Commands:")[2], re.MULTILINE))
    assert set(COMMANDS) <= set(listed)
    for name, summary in listed.items():
        assert summary.endswith("."), name
        assert "..." not in summary, name


@pytest.mark.parametrize("name", ["explain", "audit", "prove", "benchmark", "reproduce"])
def test_the_help_says_what_exit_codes_mean(run, name):
    """Break: the paragraph's backspace is left out, so that its lines are joined."""
    out = run(name, "--help")[1]
    codes = re.findall(r"^    (\d)  \w", out.partition("Exit codes")[2], re.MULTILINE)
    assert {"0", "2", "3"} <= set(codes)
    assert codes == sorted(codes)


def test_options_of_one_name_are_explained_alike():
    """Break: a help text of `--device` in one command alone."""
    texts: dict[str, set[str | None]] = {}
    group = typer.main.get_command(main.app)
    for name in COMMANDS:
        for option in group.commands[name].params:
            texts.setdefault(option.name, set()).add(option.help)
    assert len(texts["device"]) == 1


def test_nothing_at_all_shows_the_help(run):
    code, out, _ = run()
    assert code == 2
    assert "Commands:" in out


def test_catalogues_are_listed(run):
    code, out, _ = run("methods")
    assert code == 0
    listed = [found[1] for line in out.splitlines() if (found := re.match(r"  (\S+) ", line))]
    assert sorted(listed) == sorted(index.methods())  # each in one group
    code, out, _ = run("methods", "grad-eclip")
    assert code == 0
    assert "source:" in out
    assert "heads=one|model" in out
    code, out, _ = run("methods", "fast")
    assert code == 0
    assert index.meant("fast", "text")[0] in out
    code, out, _ = run("models")
    assert code == 0
    assert "open_clip:NAME/PRETRAINED" in out
    code, out, _ = run("models", "vit-b-16")
    assert "open_clip:ViT-B-16/openai" in out.splitlines()


# No torch


@pytest.mark.parametrize(
    "code", ["import heatproof", "import heatproof.cli.main, heatproof.images"]
)
def test_importing_imports_no_torch(code):
    check = f"{code}; import sys; sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    assert subprocess.run([sys.executable, "-c", check], env=environment).returncode == 0


@pytest.mark.parametrize(
    "arguments", [["--help"], ["explain", "--help"], ["--version"], ["models"]]
)
def test_help_imports_no_torch(arguments):
    check = (
        "import sys; from heatproof.cli import main as cli; code = cli.run(sys.argv[1:]); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-c", check, *arguments], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_bad_pictures_are_found_before_torch_is_imported(tmp_path):
    check = (
        "import sys; from heatproof.cli import main as cli; "
        "code = cli.run(['explain', 'none.jpg', 'a cat']); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 2, done.stderr


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explian"], "no such command"),
        (["--wrong"], "no such option"),
        (["methods", "grad-eclipp"], "did you mean grad-eclip"),
        (["models", "zzz"], "no model name contains 'zzz'"),
    ],
)
def test_bad_commands(run, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2
    assert words in one_line(err).lower()


def test_as_a_process(tmp_path):
    done = shell("explain", "nothing.jpg", "a cat", cwd=tmp_path)
    assert done.returncode == 2
    assert "no such file" in one_line(done.stderr)
    assert done.stdout == ""


def test_ctrl_c_is_one_line_and_leaves_nothing(run, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("heatproof.pages.explanation_page.page", stop)
    code, _, err = run("explain", "photo.jpg", "a cat")
    assert code == 130
    assert one_line(err.strip()) == "heatproof: interrupted; no report was written"
    assert sorted(path.name for path in Path().iterdir()) == ["photo.jpg"]


def test_ctrl_c_from_a_terminal(tmp_path):
    """A real signal to a real process, while it loads the model."""
    scene(64, 48).save(tmp_path / "photo.jpg")
    code = "import os, signal, sys, time\n"
    code += "from heatproof import models; from heatproof.cli import main as cli\n"
    # Where the tests run in the background, the signal is ignored from the start.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += (
        f"load = lambda *_, **__: (os.kill(os.getpid(), {int(signal.SIGINT)}), time.sleep(30))\n"
    )
    code += "models.load = load; sys.exit(cli.run(['explain', 'photo.jpg', 'a cat']))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("tried 9 GB"),
        torch.OutOfMemoryError("tried 9 GB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 9 GB"),
    ],
)
def test_out_of_memory_is_one_line(run, monkeypatch, error):
    def refuse(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("heatproof.engine.api.explain", refuse)
    code, _, err = run("explain", "photo.jpg", "a cat")
    assert code == 2
    assert "not enough memory" in one_line(err)
    assert "tried 9 GB" in one_line(err)
