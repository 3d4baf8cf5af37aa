"""What principle 2 stands on: scenes and folders with truth, changed models, judging."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import heatproof
import tiny
import tiny_sets
from audits import on_task
from heatproof.auditing.checks.graded_family import ordered_family
from heatproof.auditing.checks.moved_model import possible_interventions
from heatproof.auditing.run import Auditor, run_checks
from heatproof.auditing.task import AuditTask
from heatproof.auditing.verdicts import compare
from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.layouts.folder import annotated
from heatproof.data.scenes import HELD_OUT, UNSEEN, SceneDataset, write
from heatproof.data.scenes.single_attribute import FIRST, Asked, asked, drawn
from heatproof.errors import InputError
from heatproof.evaluation import variants
from heatproof.evaluation.subject import Subject
from heatproof.models import Model
from heatproof.reading import reading
from heatproof.reading.interventions import one_head
from heatproof.statistics import Interval

# --- scenes that ask for one attribute --------------------------------------------------------


@pytest.mark.parametrize(("attribute", "same", "different"), [("shape", 2, 3), ("colour", 3, 2)])
def test_one_attribute_differs_and_the_distractor_is_shared(
    attribute: Asked, same: int, different: int
) -> None:
    scenes = drawn(60, attribute, 0)
    for things in scenes.attributes:
        there = things[things[:, 0] >= 0]
        assert len(there[:, same].unique()) == 1
        assert len(there[:, different].unique()) == len(there)
        assert not any((int(t[3]), int(t[2])) in HELD_OUT for t in there)


def test_every_first_part_of_the_scenes_is_balanced() -> None:
    assert drawn(9, "shape", 0).present.sum(1).tolist() == [2, 3, 4] * 3


def test_scenes_are_far_from_all_that_training_and_its_scoring_draw() -> None:
    assert FIRST - UNSEEN > 20 << 32
    assert int(drawn(3, "shape", 0).seeds.min()) >= FIRST
    assert set(drawn(50, "shape", 0).seeds.tolist()).isdisjoint(
        drawn(50, "shape", 1).seeds.tolist()
    )


def test_scenes_are_the_same_again_alone_or_among_others() -> None:
    few, many = asked(4), asked(7)
    for n in range(4):
        assert few.photos[n].tobytes() == many.photos[n].tobytes()
        assert all(
            a.label == b.label and (a.mask == b.mask).all()
            for a, b in zip(few.things[n], many.things[n], strict=True)
        )


def test_masks_lie_on_what_is_drawn() -> None:
    """The shared colour is under every mask: objects differ from each other less than from the
    background, on average."""
    data = asked(30)
    closer = 0
    for photo, things in zip(data.photos, data.things, strict=True):
        pixels = np.asarray(photo, dtype=float)
        inside = [pixels[thing.mask].mean(0) for thing in things]
        outside = pixels[~np.logical_or.reduce([t.mask for t in things])].mean(0)
        closer += np.linalg.norm(inside[0] - inside[1]) < np.linalg.norm(inside[0] - outside)
    assert closer >= 25


# --- folders ----------------------------------------------------------------------------------


def in_memory(folder: Path, *, template: str = "a {}", most: int | None = None) -> LabelledImages:
    return annotated(folder, template=template).first(most).held()


def test_a_rendered_folder_is_read_back(tmp_path: Path) -> None:
    dataset = SceneDataset(3)
    write(dataset, tmp_path)
    data = in_memory(tmp_path)
    assert data.prompts[0] == "a circle"
    for n in range(3):
        masks = [mask for mask in dataset[n]["masks"].numpy() if mask.any()]
        assert all((a.mask == b).all() for a, b in zip(data.things[n], masks, strict=True))
        shapes = [f"a {thing.shape}" for thing in dataset[n]["scene"].objects]
        assert [data.prompts[thing.label] for thing in data.things[n]] == shapes
    assert len(in_memory(tmp_path, most=2)) == 2


def folder(path: Path, annotation: dict[str, object]) -> Path:
    (path / "images").mkdir()
    Image.new("RGB", (6, 4)).save(path / "images" / "a.png")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8) * 255).save(path / "mask.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "unlabelled.png"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 9, **annotation}],
        "categories": [{"id": 9, "name": "dog"}],
    }
    (path / "instances.json").write_text(json.dumps(content))
    return path


def test_masks_may_be_pictures_or_polygons(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    painted = in_memory(folder(tmp_path / "a", {"mask_file": "mask.png"}))
    assert (painted.things[0][0].mask == np.eye(4, 6, dtype=bool)).all()
    polygon = {"segmentation": [[1, 1, 4, 1, 4, 2, 1, 2]]}
    drawn_in = in_memory(folder(tmp_path / "b", polygon), template="a photo of a {}")
    assert drawn_in.things[0][0].mask[1:2, 1:4].all()
    assert drawn_in.things[0][0].mask.sum() == 3
    assert drawn_in.prompts == ("a photo of a dog",)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ({}, "not laid out as COCO's"),
        ({"segmentation": {"size": [4, 6], "counts": [3, 4]}}, "add up to 7"),
        ({"segmentation": {"size": [6, 4], "counts": [24]}}, "4 x 6 pixels, its picture 6 x 4"),
        ({"segmentation": {"size": [4, 6], "counts": "abc"}}, "compressed"),
        ({"category_id": 3, "segmentation": [[0, 0, 1, 1, 0, 1]]}, "not laid out"),
    ],
)
def test_folders_at_fault_are_told_so_in_one_line(
    tmp_path: Path, annotation: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError, match=text) as error:
        in_memory(folder(tmp_path, annotation))
    assert "\n" not in str(error.value)


def test_a_folder_without_instances_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no instances\.json"):
        in_memory(tmp_path)


# --- the bench --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> Model:
    return heatproof.load("scenes")


def test_questions_name_what_is_there_and_what_is_not(scenes: Model) -> None:
    bench = AuditTask(scenes, asked(12))
    for n, things in enumerate(bench.data.things):
        there = {thing.label for thing in things}
        assert int(bench.named[n]) in there
        assert int(bench.other[n]) in there - {int(bench.named[n])}
        assert int(bench.absent[n]) not in there


def test_beaten_is_the_share_of_absent_prompts_below(scenes: Model) -> None:
    bench = AuditTask(scenes, asked(5))
    for n, things in enumerate(bench.data.things):
        there = {thing.label for thing in things}
        scores = bench.scores()[n].tolist()
        absent = [scores[k] for k in range(8) if k not in there]
        slow = sum(score < scores[int(bench.named[n])] for score in absent) / len(absent)
        assert float(bench.outscored()[n]) == pytest.approx(slow)


def test_what_the_crop_cuts_off_is_not_asked_for(scenes: Model) -> None:
    """Wide pictures: the model sees the middle square alone."""
    photo = Image.new("RGB", (192, 64))
    left, middle = np.zeros((2, 64, 192), dtype=bool)
    left[:, :40], middle[16:32, 80:96] = True, True
    data = LabelledImages(
        name="wide",
        photos=(photo,),
        things=((Instance(0, left), Instance(1, middle)),),
        prompts=("a star", "a ring"),
    )
    bench = AuditTask(scenes, data)
    assert bench.labels.tolist() == [[-1, 1]]
    assert int(bench.named[0]) == 1
    assert bench.cover(bench.named)[0, 2:4, 2:4].tolist() == [[1, 1], [1, 1]]
    assert float(bench.cover(bench.named).sum()) == 4


def test_no_picture_is_told_so(scenes: Model) -> None:
    with pytest.raises(InputError, match="no image"):
        AuditTask(scenes, LabelledImages(name="nothing", photos=(), things=(), prompts=("a star",)))


def test_every_check_runs_on_a_model_of_another_family_and_grid() -> None:
    """Random weights at 3 x 5: nothing can hold by its merits, and nothing may break."""
    model = tiny.open_clip_vit(torch.float32)
    data = asked(5, pixels=40)
    bench = AuditTask(model, data)
    assert bench.grid == (3, 5)
    found = run_checks(Subject.of("attention-x-gradient"), on_task(bench), 2)
    assert {each.verdict for each in found} <= {"holds", "violated", "cannot tell"}
    assert found[0].verdict == "cannot tell"
    assert "No graded family" in found[0].evidence


# --- changed models ----------------------------------------------------------------------------


def test_checkpoints_are_the_models_of_their_names(scenes: Model) -> None:
    bench = AuditTask(scenes, asked(3))
    family = {each.name: each for each in variants.family(scenes, bench.attention_layers)}
    assert list(family)[-1] == "as it is"
    name = list(family)[1]
    there = AuditTask(heatproof.load(f"scenes:{name}"), asked(3))
    torch.testing.assert_close(bench.scores(family[name]), there.scores(), rtol=0, atol=0)


def test_a_family_is_made_where_there_are_no_checkpoints() -> None:
    bench = AuditTask(heatproof.load("scenes:step-01600"), asked(4))
    names = {each.name for each in ordered_family(bench)}
    assert "100% noise in the weights" in names
    assert "last 3 layer(s) re-initialised" in names
    assert "one head in the last 6 layer(s)" in names


def test_one_head_is_the_intervention_itself(scenes: Model) -> None:
    bench = AuditTask(scenes, asked(3))
    site = bench.attention_layers[-1]
    variant = variants.one_headed(scenes, bench.attention_layers, 1)
    with reading(scenes.module, (), interventions={site.path: one_head()}), torch.no_grad():
        by_hand = scenes.image.encode(bench.pixels)
    with variant.enter():
        assert torch.equal(bench.encode(bench.pixels), by_hand)
    assert not torch.equal(bench.encode(bench.pixels), by_hand)


def test_noise_keeps_each_tensors_values_and_the_text_tower(scenes: Model) -> None:
    before = {k: v.clone() for k, v in scenes.module.state_dict().items()}
    with variants.noised(scenes, 1.0, seed=3).enter():
        for name, tensor in scenes.module.state_dict().items():
            assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values)
            moved = not torch.equal(tensor, before[name])
            assert moved <= name.startswith("visual.")
        assert not torch.equal(scenes.module.visual.proj, before["visual.proj"])


def test_re_initialising_stops_at_the_last_layers(scenes: Model) -> None:
    bench = AuditTask(scenes, asked(3))
    before = {k: v.clone() for k, v in scenes.module.state_dict().items()}
    with variants.reinitialised(scenes, bench.attention_layers, 2, seed=3).enter():
        changed = {
            name.split(".")[3]
            for name, tensor in scenes.module.state_dict().items()
            if not torch.equal(tensor, before[name])
        }
    assert changed == {"4", "5"}


def _run_and_stop(bench: AuditTask, stop: type[BaseException]) -> None:
    bench.encode(bench.pixels)
    raise stop


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_to_the_bit(scenes: Model, stop: type[BaseException]) -> None:
    bench = AuditTask(scenes, asked(3))
    native, before = F.scaled_dot_product_attention, scenes.module.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    for each in (*variants.family(scenes, bench.attention_layers), *possible_interventions(bench)):
        with pytest.raises(stop), each.enter():
            _run_and_stop(bench, stop)
        after = scenes.module.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items()), each.name
    assert F.scaled_dot_product_attention is native


# --- judging ------------------------------------------------------------------------------------


def around(value: float, half: float = 0.1) -> Interval:
    return Interval(value, value - half, value + half, 100)


CONTROLS = {"noise": around(0.02), "blind": around(-0.01)}


@pytest.mark.parametrize(
    ("statistic", "follower", "outcome"),
    [
        (around(0.5), around(0.8), "passes"),
        (around(0.13), around(0.8), "passes"),
        (around(0.11), around(0.8), "unclear"),
        (around(0.05), around(0.8), "fails"),
        (around(-0.4), around(0.8), "fails"),
        (around(0.05, 0.5), around(0.8), "unclear"),
        (around(0.05, 0.2), around(0.8, 0.2), "fails"),
        (around(0.05, 0.2), around(0.8, 0.35), "unclear"),  # few pictures: the follower is unsure
        (around(0.5), around(0.1), "blunt"),
    ],
)
def test_judging(statistic: Interval, follower: Interval, outcome: str) -> None:
    found = compare(statistic, CONTROLS, follower)
    assert found.outcome == outcome
    assert found.limit == pytest.approx(0.02)


def test_a_control_that_passes_breaks_the_check() -> None:
    found = compare(around(0.9), {**CONTROLS, "size": around(0.3)}, around(0.95))
    assert (found.outcome, found.broken_by) == ("broken", ("size",))
    assert "control size passes" in found.why


def test_a_control_is_held_to_the_others() -> None:
    assert compare(CONTROLS["noise"], CONTROLS, around(0.8), own="noise").limit == 0


def test_the_limit_is_never_below_zero() -> None:
    assert compare(around(0.5), {"blind": around(-0.3)}, around(0.8)).limit == 0


# --- data sets ----------------------------------------------------------------------------------


def test_the_audit_opens_every_set_that_says_all_it_shows(tmp_path: Path) -> None:
    found = Auditor("scenes", f"coco:{tiny_sets.coco(tmp_path)}", scenes=20).data
    assert found is not None
    assert found.complete
    assert len(found) > 0


def test_a_set_that_leaves_objects_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"asks for what is absent; try scenes, coco:PATH"):
        Auditor("scenes", f"imagenet-s:{tiny_sets.imagenet_s(tmp_path)}", scenes=20)
