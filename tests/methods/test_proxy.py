"""A proxy answers as its method does, and is asked for every map."""

import pytest

import tiny
from families import picture
from heatproof import methods
from heatproof.engine.api import explain
from heatproof.methods import Method
from heatproof.methods.proxy import MethodProxy

NAMES = ("attention-x-gradient", "grad-eclip", "gae", "raw-attention", "occlusion")


@pytest.mark.parametrize("name", NAMES)
def test_maps_through_a_proxy_are_the_methods_own(name: str) -> None:
    model, method = tiny.open_clip_vit(), methods.create(name)
    maps = [
        explain(model, picture(model), ["a b", "c"], method=asked, certify=False).maps
        for asked in (method, MethodProxy(method))
    ]
    assert (maps[0] - maps[1]).abs().max() <= 1e-6 * maps[0].abs().max()


def test_every_question_but_the_fast_paths_is_handed_on() -> None:
    """Break: leave one out of the proxy: the base class's default answers."""
    model = tiny.open_clip_vit()
    layers = model.attention_layers("image")
    method = methods.create("grad-eclip", heads="one")
    proxy = MethodProxy(method)
    assert proxy.plan(layers, "image").paths == method.plan(layers, "image").paths
    assert proxy.factors("image") == method.factors("image")
    assert (proxy.settings(), proxy.card) == (method.settings(), method.card)
    fast = {"linear", "shares", "contributions", "implied"}
    own = {name for name in vars(Method) if callable(getattr(Method, name)) and name[0] != "_"}
    assert own - fast <= set(vars(MethodProxy))
