"""The demonstration: what it claims of its scene is true, and nothing is made to look fuller."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from heatproof import demo


def test_scene_shows_the_present_and_not_the_absent():
    import torch

    from heatproof.data.scenes import sample

    objects = sample(torch.tensor([demo.SEED])).described()[0].objects
    names = {f"a {thing.colour} {thing.shape}" for thing in objects}
    assert demo.PRESENT in names
    assert demo.ABSENT not in names
    assert demo.NONSENSE.split()[0] not in " ".join(names)
    assert demo.scene().size == (demo.PIXELS, demo.PIXELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo") / "out"
    assert demo.main(place) == 0
    return place


def test_demo_explains_three_prompts_beside_a_control(folder):
    stored = json.loads((folder / "explanation.json").read_text())
    assert stored["prompts"] == [demo.PRESENT, demo.ABSENT, demo.NONSENSE]
    assert stored["certificate"]["holds"] is True
    present, absent, nonsense = stored["scores"]
    assert present > max(absent, nonsense) + 0.1
    assert "rendered scenes only" in " ".join(stored["notices"])
    assert "random control" in (folder / "report.html").read_text()
    with Image.open(folder / "strip.png") as strip:
        assert strip.width > 5 * 300
    with Image.open(folder / "comparison.png") as compared:
        assert compared.height > 3 * 300  # banzhaf, Grad-ECLIP and a control


def test_no_article_is_the_strongest_word_of_the_demo(folder):
    """Break: a method for words that puts the place in the sentence first."""
    prompt = json.loads((folder / "explanation.json").read_text())["words"]["prompts"][0]
    values = {word["text"]: word["value"] for word in prompt["words"]}
    assert values["a"] < min(values["red"], values["circle"])


def test_maps_of_the_demo_are_as_they_came(folder):
    from heatproof import explain, load

    prompts = [demo.PRESENT, demo.ABSENT, demo.NONSENSE]
    again = explain(load("scenes"), folder / "scene.png", prompts, method=demo.SHOWN)
    stored = load_file(folder / "maps.safetensors")["maps"]
    assert (stored == again.maps[0]).all()
    scale = json.loads((folder / "explanation.json").read_text())["display"]["scale"]
    assert scale == pytest.approx(float(again.maps.abs().max()))
    noise = explain(load("scenes"), folder / "scene.png", [demo.PRESENT], method="random")
    shown = demo.control(again, noise).values
    first = again.maps[0, 0].numpy()
    assert np.sqrt((shown**2).mean()) == pytest.approx(np.sqrt((first**2).mean()), rel=1e-4)
