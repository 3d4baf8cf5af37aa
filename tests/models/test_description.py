"""What `Model.describe` prints is what the attention calls really compute."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from heatproof import ImageError, load
from heatproof.cli.main import run
from heatproof.models import Model
from heatproof.models.geometry import Preprocess
from heatproof.reading import reading
from heatproof.specimens import SPECIMENS, model_of, picture


def model_named(name: str) -> Model:
    return load("scenes") if name == "scenes" else model_of(name)


def facts(text: str) -> dict[str, str]:
    return dict(re.split(r": +", line, maxsplit=1) for line in text.splitlines())


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (640, 480)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize("name", [*SPECIMENS, "scenes"])
def test_tokens_and_readout_are_those_of_the_last_attention_call(name: str) -> None:
    """Break: a prefix token less; the readout's row one further; heads of the first call."""
    model = model_named(name)
    with reading(model.module) as trace:
        embedding = model.image.encode(picture(model, 1))
        (gradient,) = torch.autograd.grad(embedding[:, :3].sum(), trace.layers[-1].output)
    last = trace.layers[-1]
    told = facts(str(model.describe()))
    total, prefix, rows, cols = re.match(
        r"(\d+) = (?:(\d+) \(.*?\) \+ )?(\d+) x (\d+) patches", told["tokens"]
    ).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert int(total) == int(prefix or 0) + int(rows) * int(cols) == last.key.shape[2]
    assert f"queries: {last.query.shape[2]}, keys: {last.key.shape[2]}" in told["image"]
    assert told["image"].startswith(f"{len(trace.layers)} attention calls")
    assert re.search(rf"heads: .*{last.query.shape[1]}", told["image"])
    live = gradient[0].abs().sum((0, 2)).nonzero().flatten().tolist()
    row = re.search(r"query row (\d+)", told["readout"])
    start = int(prefix or 0)
    patches = list(range(start, start + int(rows) * int(cols)))
    assert live == (patches if row is None else [int(row[1])])


@pytest.mark.parametrize("name", ["open_clip vit", "hf siglip 2", "timm vit", "scenes"])
def test_mean_and_deviation_are_measured(name: str) -> None:
    """Break: mean and standard deviation swapped."""
    model = model_named(name)
    process = model.image.preprocess
    described = model.describe()
    grey = process(Image.new("RGB", (process.width, process.height), (51, 102, 153)))
    expected = (torch.tensor([0.2, 0.4, 0.6]) - torch.tensor(described.mean)) / torch.tensor(
        described.std
    )
    middle = grey[:, grey.shape[1] // 2, grey.shape[2] // 2]
    torch.testing.assert_close(middle.float(), expected, atol=2e-3, rtol=0)


def test_what_is_never_seen_of_a_photo_is_said_in_its_own_pixels(photo: str) -> None:
    """640 x 480 pixels become 85 x 64, of which columns 10 to 74 are kept: 75 to 557 of the photo.

    Break: columns counted in the resized image; the crop's start left out.
    """
    model = load("scenes")
    described = model.describe(photo)
    assert "rows 0 to 480 and columns 75 to 557; 24.7% is never seen" in str(described)
    assert "a patch is 60.0 x 60.2 of its pixels" in str(described)
    assert "photo" not in facts(str(model.describe()))
    with pytest.raises(ImageError):
        model.describe("nothing.png")


def test_a_model_that_keeps_the_aspect_ratio_is_described_on_the_photo_s_grid() -> None:
    """Break: the grid of the model's own square."""
    described = model_of("hf siglip 2").describe(Image.new("RGB", (640, 160)))
    assert described.layout.cols > 2 * described.layout.rows
    assert described.image_layers[-1].keys == described.layout.rows * described.layout.cols
    assert "0.0% is never seen" in str(described)
    assert "keeps its aspect ratio" in str(described)


def test_level_is_that_of_the_middle_where_the_border_is_padded() -> None:
    """Break: the first pixel taken."""

    def padded(image: Image.Image) -> torch.Tensor:
        pixels = torch.zeros(3, 5, 7)
        pixels[:, 1:4, 1:6] = image.getpixel((0, 0))[0] / 255  # pyright: ignore
        return pixels

    process = Preprocess(height=5, width=7, resize="squash", resize_to=5, transform=padded)
    assert process.level(255).tolist() == [1, 1, 1]


def test_a_specimen_is_described_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "specimen:hf clip"]) == 0
    assert capsys.readouterr().out.strip() == str(load("specimen:hf clip").describe())


def test_the_command_line_describes_a_model(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "scenes", photo]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(load("scenes").describe(photo))
    assert "notice: scenes knows rendered scenes only" in err
    for arguments, words in (
        (["scenes", "nothing.png"], "no such file"),
        (["scen", photo], "did you mean scenes?"),
        (["scenes:earlier"], "no model name contains 'scenes:earlier'"),
        (["specimen:hf clop"], "did you mean hf clip"),
    ):
        assert run(["models", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert len(err.splitlines()) == 1
