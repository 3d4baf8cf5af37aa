"""Ranks, z values and prompt ensembles."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import heatproof
from families import picture, worded_model_of
from heatproof.engine import inputs, readings
from heatproof.errors import InputError

FAMILY = "open_clip vit"
NAMES = ("dog", "cat", "bird", "fish")


def test_an_ensemble_is_the_mean_of_its_templates() -> None:
    """Fails if embeddings are averaged before they are normalised, or names are mixed up."""
    model = worded_model_of(FAMILY)
    found = readings.ensembles(model, NAMES, ("a {}", "the {} there"))
    for number, name in enumerate(NAMES):
        texts = inputs.embed(model, [f"a {name}", f"the {name} there"]).embeddings
        torch.testing.assert_close(found.embeddings[number], F.normalize(texts, dim=1).mean(0))
    assert found.labels == NAMES


def test_an_ensemble_is_explained_as_one_prompt() -> None:
    """A map that is linear in the text: the sum of the templates' own maps, by their lengths."""
    model = worded_model_of(FAMILY)
    both = readings.ensembles(model, ["dog"], ("a {}", "the {} there"))
    whole = heatproof.explain(model, picture(model, 1), both, certify=False)
    parts = heatproof.explain(
        model, picture(model, 1), ["a dog", "the dog there"], certify=False
    ).maps
    expected = parts.mean(1, keepdim=True) / both.embeddings.norm()
    torch.testing.assert_close(whole.maps, expected, rtol=1e-4, atol=1e-6)
    assert whole.record.prompts == ("dog",)


def test_ranks_count_the_classes_above() -> None:
    """Fails if a class counts as its own rival, or the order is turned."""
    model = worded_model_of(FAMILY)
    shown = inputs.images(model, picture(model, 2), None)
    classes = readings.ensembles(model, NAMES)
    rows = readings.readings(model, shown, classes, classes)
    for image, row in enumerate(rows):
        ranks = [reading.rank for reading in row]
        assert sorted(rank for rank in ranks if rank) == [1, 2, 3, 4]
        alone = inputs.ImageInputs(model, shown.pixels[image : image + 1])
        best = readings.top(alone, classes, 4)
        assert [ranks[number] for number, _ in best] == [1, 2, 3, 4]
        assert all(reading.count == 4 for reading in row)
    outsider = readings.ensembles(model, ["horse"])
    assert readings.readings(model, shown, outsider, classes)[0][0].count == 5


def test_z_is_zero_on_average_over_the_null_texts_themselves() -> None:
    """Fails if another spread or another mean is taken."""
    model = worded_model_of(FAMILY)
    shown = inputs.images(model, picture(model, 1), None)
    (row,) = readings.readings(model, shown, readings.ensembles(model, readings.null_texts()))
    values = torch.tensor([reading.z for reading in row])
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std()) == pytest.approx(1, abs=1e-5)
    assert readings.null_texts() == readings.null_texts()


def test_lists_are_read_from_files(tmp_path: Path) -> None:
    """Fails if blank lines count, or a template without a place for the name is taken."""
    file = tmp_path / "list.txt"
    file.write_text("a {}\n\nmy {}\n")
    assert readings.templates(str(file)) == ("a {}", "my {}")
    assert readings.class_names(str(file)) == ("a {}", "my {}")
    file.write_text("a dog\n")
    with pytest.raises(InputError, match="where the name goes"):
        readings.templates(str(file))
    with pytest.raises(InputError, match="expected two or more"):
        readings.class_names(str(file))
    with pytest.raises(InputError, match="expected imagenet"):
        readings.class_names(str(tmp_path / "none.txt"))
    assert len(readings.class_names("imagenet")) == 1000
    assert readings.templates("openai80")[0] == "a bad photo of a {}."
