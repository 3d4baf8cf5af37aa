"""The command line, run in an empty folder on a tiny model."""

import pytest
import torch

import tiny
from by_hand_explanations import scene
from heatproof.cli import main


@pytest.fixture(scope="module")
def model():
    return tiny.open_clip_vit(torch.float32)


@pytest.fixture
def run(model, monkeypatch, tmp_path, capsys):
    """Run a command line in an empty folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heatproof.models.load", lambda _spec, **_more: model)
    scene(320, 200).save("photo.jpg")

    def start(*arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start
