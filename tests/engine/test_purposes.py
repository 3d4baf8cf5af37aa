"""Purposes: `default` and `fast` stand for methods, per side, and are recorded as these."""

import pytest
from PIL import Image

import heatproof
from families import ids_for, model_of, picture, prompts_for
from heatproof import index, methods
from heatproof.errors import InputError, ReadingError

VIT, POOL = "open_clip vit", "open_clip resnet"
PURPOSES = [(side, purpose) for side in ("image", "text") for purpose in index.PURPOSES]


def explained(family, side="image", **options):
    model = model_of(family)
    if side == "image":
        return heatproof.explain(model, picture(model), prompts_for(family), **options)
    return heatproof.explain_words(model, picture(model), ids_for(family), **options)


@pytest.mark.parametrize(("side", "purpose"), PURPOSES)
def test_a_purpose_means_methods_of_its_side(side, purpose):
    """Break: a name of the study that no method has, or one that explains the other side."""
    names = index.meant(purpose, side)
    assert names
    assert all(side in methods.catalogue()[name].sides for name in names)


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_record_names_the_method_itself(side):
    """Break: record the name that was given."""
    first = index.meant("default", side)[0]
    for method in (None, "default"):
        assert explained(VIT, side, method=method).record.method == first
    assert explained(VIT, side, method="fast").record.method == index.meant("fast", side)[0]


@pytest.fixture
def order(monkeypatch):
    """Let `fast` stand for a method that refuses attention pools, then for one that does not."""
    names = {side: {"default": ["gae"], "fast": ["token-decomposition", "gae"]}
             for side in ("image", "text")}  # fmt: skip
    monkeypatch.setattr(index, "study", lambda: {"names": names})


@pytest.mark.usefixtures("order")
def test_a_model_that_refuses_the_first_gets_the_next():
    """Break: raise the first one's error, or keep silent about it."""
    assert explained(VIT, method="fast").record.method == "token-decomposition"
    found = explained(POOL, method="fast")
    assert found.record.method == "gae"
    assert any("token-decomposition does not apply" in note for note in found.record.notices)
    assert (found.maps == explained(POOL, method="gae").maps).all()


@pytest.mark.usefixtures("order")
def test_each_batch_of_a_stream_is_of_one_method(tmp_path):
    """Break: let the first method come back in the second batch."""
    model = model_of(POOL)
    for n in range(3):
        Image.new("RGB", (40, 40), (50 * n, 90, 120)).save(tmp_path / f"{n}.png")
    photos = sorted(tmp_path.glob("*.png"))
    prompts = prompts_for(POOL)
    found = heatproof.explain_each(model, photos, prompts, method="fast", batch_size=1)
    assert [e.record.method for e in found] == ["gae"] * 3


@pytest.mark.usefixtures("order")
def test_a_jacobian_takes_no_second_method():
    """Break: fall back to a method that is not linear, whose maps of later prompts are wrong."""
    model = model_of(POOL)
    with pytest.raises((InputError, ReadingError), match=r"token-decomposition|residual block"):
        heatproof.jacobian(model, picture(model), method="fast")


@pytest.mark.usefixtures("order")
def test_options_belong_to_one_method():
    """Break: hand the options of the image side's method to another one on the text side."""
    assert index.chosen_methods("default", {}) == {"default": {}}
    assert index.chosen_methods("default", {"layers": "1"}) == {"gae": {"layers": "1"}}
