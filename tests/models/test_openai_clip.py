"""OpenAI's own `clip` package: its class, transform and tokenizer, read as they are.

Every map is held to open_clip's of the same weights: the two libraries differ in layout alone.
"""

import sys
from types import ModuleType
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

import heatproof
import openai_twin
from heatproof import methods
from heatproof.errors import InputError, ReadingError
from heatproof.models import Model
from heatproof.models.tokenizers import CLIP_VOCABULARY
from input_photos import input_of, photo
from openai_twin import DIM, PATCH, SIZE, WIDTH, twin

TEXTS = ["a dog", "a caf\u00e9 &amp; a red cat " * 12]  # the second is too long for the context
TEXT: dict[str, Any] = {"width": 24, "heads": 2, "layers": 2, "vocab_size": CLIP_VOCABULARY}
library: Any = open_clip

# Its relevance rule deals sums out by item, and here tokens come first.
REFUSED = ("transformer-attribution",)


def wrapped(module: nn.Module) -> Model:
    return heatproof.wrap(
        module, preprocess=openai_twin.transform(SIZE), tokenizer=openai_twin.tokenize
    )


def in_open_clip(module: openai_twin.CLIP) -> Model:
    """The same weights in open_clip's classes."""
    vision = {"image_size": SIZE, "patch_size": PATCH, "width": WIDTH, "layers": 2}
    other = library.CLIP(DIM, {**vision, "head_width": 32}, TEXT, quick_gelu=True).eval()
    missing, unknown = other.load_state_dict(module.state_dict(), strict=False)
    assert (missing, unknown) == ([], [])
    return heatproof.wrap(other, preprocess=openai_twin.transform(SIZE))


@pytest.fixture(scope="module")
def both() -> tuple[Model, Model]:
    module = twin()
    return wrapped(module), in_open_clip(module)


def test_the_score_is_the_models_own_through_its_own_transform_and_tokenizer(
    both: tuple[Model, Model],
) -> None:
    model, module = both[0], both[0].module
    assert model.family == "openai-clip"
    explanation = heatproof.explain(model, photo(90, 157), TEXTS)
    with torch.no_grad():
        image: Any = module.encode_image(openai_twin.transform(SIZE)(photo(90, 157))[None])
        text: Any = module.encode_text(openai_twin.tokenize(TEXTS, truncate=True))
    own = torch.nn.functional.cosine_similarity(image, text)
    torch.testing.assert_close(explanation.scores[0], own, rtol=0, atol=1e-6)
    assert input_of(explanation).verdict == "holds"
    assert explanation.certificate.holds


@pytest.mark.parametrize("name", sorted(methods.catalogue()))
def test_every_method_gives_open_clips_map_of_the_same_weights(
    name: str, both: tuple[Model, Model]
) -> None:
    sides = methods.create(name).card.sides
    for side in sides:
        explain: Any = heatproof.explain if side == "image" else heatproof.explain_words
        settings = {"method": name, "certify": False}
        if name in REFUSED:
            with pytest.raises(ReadingError, match="try gae"):
                explain(both[0], photo(64, 61), TEXTS[:1], **settings)
            continue
        ours, other = (explain(model, photo(64, 61), TEXTS[:1], **settings) for model in both)
        one, two = (e.maps if side == "image" else e.maps[0][0] for e in (ours, other))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_words_are_those_of_the_prompt(both: tuple[Model, Model]) -> None:
    words = heatproof.explain_words(both[0], photo(64, 61), TEXTS).words[0]
    assert [word.text for word in words[0]] == ["a", "dog"]
    assert [word.text for word in words[1]][:2] == ["a", "caf\u00e9"]


def test_an_attention_pooled_resnet_is_read() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(12)
        visual = library.modified_resnet.ModifiedResNet(
            layers=(1, 1, 1, 1), output_dim=DIM, heads=2, image_size=64, width=4
        )
        visual.input_resolution = 64
        module = openai_twin.CLIP(visual, 77, CLIP_VOCABULARY, 24, DIM).eval()
    model = heatproof.wrap(module, preprocess=openai_twin.transform(64))
    explanation = heatproof.explain(model, photo(90, 157), TEXTS[:1])
    assert explanation.maps.shape == (1, 1, 2, 2)
    assert explanation.certificate.holds
    assert input_of(explanation).verdict == "holds"


def test_its_own_transform_is_taken_where_the_package_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package: Any = ModuleType("clip.clip")
    package._transform, package.tokenize = openai_twin.transform, openai_twin.tokenize
    without = heatproof.explain(heatproof.wrap(twin()), photo(90, 157), TEXTS)
    assert input_of(without).verdict == "not established"
    monkeypatch.setitem(sys.modules, "clip.clip", package)
    explanation = heatproof.explain(heatproof.wrap(twin()), photo(90, 157), TEXTS)
    assert input_of(explanation).verdict == "holds"
    assert "clip's transform" in input_of(explanation).evidence
    torch.testing.assert_close(without.maps, explanation.maps, rtol=1e-4, atol=1e-6)


def test_other_sizes_and_other_clips_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="no rule for other sizes"):
        heatproof.explain(wrapped(twin()), photo(64, 61), TEXTS[:1], image_size=(28, 28))

    class CLIP(nn.Module):
        """Of the same name, and not OpenAI's."""

    with pytest.raises(InputError, match="no model that heatproof knows; expected"):
        heatproof.wrap(CLIP().eval())


def test_tokens_first_is_known_of_blocks_alone(both: tuple[Model, Model]) -> None:
    from heatproof.reading import record_activations
    from heatproof.reading.blocks import is_token_first

    module: Any = both[0].module
    assert is_token_first(module, "visual.transformer.resblocks.0")
    assert is_token_first(module, "transformer.resblocks.1.mlp")
    assert not is_token_first(module, "visual.ln_pre")
    assert not is_token_first(both[1].module, "visual.transformer.resblocks.0")
    pixels = torch.randn(2, 3, SIZE, SIZE)
    paths = ["visual.transformer.resblocks.0", "visual.transformer.resblocks.1.mlp"]
    plain = module.encode_image(pixels)
    with record_activations(module, paths, leaf=paths[0]) as states:
        seen = module.encode_image(pixels)
    assert [tuple(states[path].output.shape) for path in paths] == [(2, 10, WIDTH)] * 2
    torch.testing.assert_close(seen, plain)
    grads = torch.autograd.grad(
        seen.sum(), [states[paths[0]].input, states[paths[1]].input, states[paths[1]].output]
    )
    assert all(grad.abs().sum() > 0 for grad in grads)
