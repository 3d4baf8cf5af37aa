"""A scene without an object is equal elsewhere to the pixel; inpainting changes it there alone."""

from dataclasses import replace

import numpy as np
import torch

from heatproof.data.scenes import render
from heatproof.data.scenes.counterfactual import instead, without
from heatproof.data.scenes.single_attribute import asked, drawn
from heatproof.evaluation.counterfactual import removal_costs, removals
from heatproof.evaluation.localisation import share_beaten


def pixels(image: object) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).int()


def test_a_scene_without_an_object_is_equal_everywhere_else() -> None:
    """Break: leave the slot in place, or draw the scene from another seed."""
    scenes = drawn(6, "shape", 7)
    images, masks = render(scenes)
    for slot in range(2):
        gone, left = render(without(scenes, slot))
        assert not left[:, slot].any()
        # A rim of two pixels, where outlines are blended.
        near = torch.nn.functional.max_pool2d(masks[:, slot].float(), 5, 1, 2) > 0
        apart = (images.int() - gone.int()).abs().amax(1)
        assert not apart[~near].any()
        assert (apart[masks[:, slot]] > 0).float().mean() > 0.9


def test_an_object_of_another_colour_keeps_its_outline() -> None:
    scenes = drawn(4, "shape", 7)
    _, masks = render(scenes)
    colour = (int(scenes.attributes[0, 0, 2]) + 3) % 8
    other, same = render(instead(scenes, 0, "colour", colour))
    assert torch.equal(masks, same)
    assert (instead(scenes, 3, "colour", colour).attributes[:, 3] >= 0).equal(
        scenes.attributes[:, 3] >= 0
    )
    assert len(other) == 4


def test_labelled_scenes_know_themselves_without_each_thing() -> None:
    data = asked(5, seed=3).chosen([4, 1])
    assert data.without is not None
    for row in range(2):
        photo, things = pixels(data.photos[row]), data.things[row]
        assert len(data.without[row]) == len(things)
        for image, thing in zip(data.without[row], things, strict=True):
            changed = (pixels(image) - photo).abs().amax(-1).bool()
            assert changed[torch.from_numpy(thing.mask)].float().mean() > 0.9


def test_other_images_are_inpainted_around_the_object_alone() -> None:
    data = replace(asked(3, seed=3), without=None)
    shown = removals(data, range(1, 3))
    assert set(shown.image) == {1, 2}
    for photo, row, thing in zip(shown.photos, shown.image, shown.thing, strict=True):
        mask = torch.from_numpy(data.things[row][thing].mask)
        near = torch.nn.functional.max_pool2d(mask[None, None].float(), 5, 1, 2)[0, 0] > 0
        changed = (pixels(photo) - pixels(data.photos[row])).abs().amax(-1).bool()
        assert not changed[~near].any()
        assert changed[mask].float().mean() > 0.8


def test_costs_and_shares_are_by_hand() -> None:
    shown = removals(asked(3, seed=3))
    before, after = torch.tensor([1.0, 2.0, 3.0]), torch.arange(len(shown.image)).float()
    costs = removal_costs(before, after, shown, 4)
    assert costs[0, 0] == 1
    assert costs[0, 1] == 0
    assert costs[0, 2].isnan()
    values = torch.tensor([[3.0, 1.0, 3.0, 9.0], [1.0, 2.0, 0.0, 9.0], [1.0, 0.0, 0.0, 9.0]])
    named = torch.tensor([[True, False, False, False]] * 3)
    there = torch.tensor([[True, True, True, False]] * 2 + [[True, False, False, False]])
    share = share_beaten(values, named, there, torch.tensor([0.1, 0.1, 0.1]))
    assert share[:2].tolist() == [0.75, 0.5]
    assert share[2].isnan()
