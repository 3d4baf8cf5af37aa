"""Any number of pictures: what `explain` gives for them, batch by batch, whoever decodes them."""

import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import heatproof
from families import FAMILIES
from heatproof.engine import streaming
from heatproof.errors import ImageError, InputError, PromptError
from heatproof.explanation import Explanation
from heatproof.images import open_image
from heatproof.models import Model

PROMPTS = ["a red circle", "a blue square"]
COUNT = 7


@pytest.fixture(scope="module")
def model() -> Model:
    return heatproof.load("scenes")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Photographs of different sizes."""
    generator = torch.Generator().manual_seed(0)
    paths: list[Path] = []
    for number in range(COUNT):
        size = (5, 4 + number, 3)
        small = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(small.numpy()).resize((90 + 10 * number, 100)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()
    assert not [t.name for t in threading.enumerate() if "heatproof" in t.name]


def damage(path: Path, bytes_: bytes = b"") -> Path:
    path.write_bytes(bytes_)
    return path


def frames_of(held: pytest.ExceptionInfo[BaseException]) -> list[str]:
    """The functions whose frames, and so whatever they hold, the traceback keeps."""
    return [entry.name for entry in held.traceback]


def each(model: Model, files: Any, **more: Any) -> Iterator[Explanation]:
    more = {"batch_size": 3, **more}
    return heatproof.explain_each(model, files, PROMPTS, **more)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", ["attention-x-gradient", "gae", "smoothgrad", "random"])
def test_it_gives_what_explain_gives(
    model: Model, files: list[Path], workers: int, method: Any
) -> None:
    whole = heatproof.explain(model, files, PROMPTS, method=method)
    found = list(each(model, files, method=method, workers=workers))
    assert [len(one.maps) for one in found] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([one.maps for one in found]), whole.maps)
    torch.testing.assert_close(torch.cat([one.scores for one in found]), whole.scores)
    assert [photo.source for one in found for photo in one.photos] == list(map(str, files))
    assert [view for one in found for view in one.views] == list(whole.views)
    for one in found:
        assert one.certificate.holds == whole.certificate.holds
        assert one.record == whole.record


def test_its_explanations_are_those_of_the_photographs(
    model: Model, files: list[Path], tmp_path: Path
) -> None:
    (first, *_) = list(each(model, files))
    own = heatproof.explain(model, files[:3], PROMPTS)
    assert first.overlay(1).tobytes() == own.overlay(1).tobytes()
    assert first.save(tmp_path / "out").exists()


def test_pictures_in_memory_and_another_size(model: Model, files: list[Path]) -> None:
    pictures = [open_image(path).image for path in files[3::-1]]
    whole = heatproof.explain(model, pictures, PROMPTS, image_size=(48, 80))
    found = list(each(model, pictures, image_size=(48, 80)))
    torch.testing.assert_close(torch.cat([one.maps for one in found]), whole.maps)
    assert whole.certificate.warnings == max(one.certificate.warnings for one in found)
    one_by_one = heatproof.explain(model, pictures, PROMPTS, image_size=(48, 80), batch_size=1)
    assert one_by_one.certificate.warnings == whole.certificate.warnings
    assert all("drift" in one.certificate.warnings[0] for one in found)


def test_any_callable_gets_the_photographs(model: Model, files: list[Path]) -> None:
    seen: list[tuple[int, int]] = []

    def mine(photo: Image.Image, _: str) -> Image.Image:
        seen.append(photo.size)
        return photo.convert("L")

    assert len(list(each(model, files[:4], method=mine))) == 2
    assert seen[::2] == [(90 + 10 * number, 100) for number in range(4)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the loader opens, in order; after twenty it takes its time."""
    found: list[str] = []
    real = streaming.open_image

    def noted(picture: Any) -> Any:
        found.append(str(picture))
        time.sleep(0.1 if len(found) > 20 else 0)
        return real(picture)

    monkeypatch.setattr(streaming, "open_image", noted)
    return found


def test_no_more_than_two_batches_are_opened_ahead_of_their_use(
    model: Model, files: list[Path], opened: list[str]
) -> None:
    stream = each(model, files, batch_size=1)
    assert not opened  # nothing is read before somebody asks
    for used, one in enumerate(stream, 1):
        assert len(opened) <= used + 1
        assert one.photos[0].held is None
    assert opened == list(map(str, files))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_faulty_picture_is_told_and_left_out(
    model: Model, files: list[Path], workers: int
) -> None:
    damage(files[1])
    damage(files[3], b"not a picture")
    damage(files[4])
    damage(files[5])
    told: list[ImageError] = []
    done: list[tuple[int, int]] = []

    def progress(*counts: int) -> None:
        done.append((counts[0], counts[1]))

    stream = each(model, files, workers=workers, faulty=told.append, progress=progress)
    sources = [[photo.source for photo in one.photos] for one in stream]
    assert sources == [[str(files[0]), str(files[2])], [str(files[6])]]
    assert [str(error).split(":")[0] for error in told] == [str(files[n]) for n in (1, 3, 4, 5)]
    assert "zero bytes" in str(told[0])
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_a_faulty_picture_moves_no_noise(model: Model, files: list[Path]) -> None:
    damage(files[1])
    whole = heatproof.explain(model, [files[0], *files[2:]], PROMPTS, method="random")
    found = torch.cat([one.maps for one in each(model, files, method="random", faulty=id)])
    assert torch.equal(found, whole.maps)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_after_all_that_was_before_it(
    model: Model, files: list[Path], workers: int
) -> None:
    damage(files[4])
    stream = each(model, files, workers=workers)
    assert len(next(stream).maps) == 3
    assert [photo.source for photo in next(stream).photos] == [str(files[3])]
    with pytest.raises(ImageError, match=r"4\.png: zero bytes"):
        next(stream)


@pytest.mark.parametrize("workers", [0, 1])
def test_leaving_early_leaves_nobody_behind(model: Model, files: list[Path], workers: int) -> None:
    for _ in each(model, files, workers=workers, batch_size=1):
        break


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_leaves_nobody_behind(model: Model, files: list[Path], workers: int) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(each(model, files, workers=workers, batch_size=1, progress=stop))


def test_a_budget_is_measured_once(
    model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from heatproof.engine import pipeline

    fits: list[Any] = []
    real = pipeline.plan_batches

    def plan_batches(*given: Any) -> Any:
        fits.append(real(*given))
        return fits[-1]

    monkeypatch.setattr(pipeline, "plan_batches", plan_batches)
    found = list(each(model, files, memory="40MB", method="gae"))
    assert len(fits) == 1
    whole = heatproof.explain(model, files, PROMPTS, method="gae")
    torch.testing.assert_close(torch.cat([one.maps for one in found]), whole.maps)


@pytest.mark.parametrize(
    ("pictures", "more", "error", "says"),
    [
        ([], {}, ImageError, "got no image, expected a path"),
        (torch.zeros(2, 3, 64, 64), {}, InputError, "got a tensor, .* pass it to explain"),
        (["a.png"], {"image_size": "keep"}, InputError, "'keep', which gives every aspect ratio"),
        (["a.png"], {"batch_size": 0}, InputError, "got batch_size=0, expected at least 1"),
        (["a.png"], {"workers": -1}, InputError, "got workers=-1, expected at least 0"),
        (["a.png"], {"method": "gea"}, InputError, "did you mean gae"),
        (["a.png"], {"memory": "some"}, InputError, "got memory 'some'"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    model: Model, pictures: Any, more: Any, error: Any, says: str
) -> None:
    with pytest.raises(error, match=says):
        each(model, pictures, **more)


def test_a_wrong_prompt_is_said_at_once(model: Model) -> None:
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        heatproof.explain_each(model, ["a.png"], [" "])


def test_one_picture_is_a_list_of_one(model: Model, files: list[Path]) -> None:
    (one,) = heatproof.explain_each(model, files[0], PROMPTS)
    assert one.photos[0].source == str(files[0])


def test_nothing_is_drawn_from_the_users_own_noise(model: Model, files: list[Path]) -> None:
    before = torch.get_rng_state()
    list(each(model, files, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_leaving_waits_for_one_picture_and_not_for_its_batch(
    model: Model, files: list[Path], opened: list[str]
) -> None:
    stream = each(model, files * 9, batch_size=20)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 20 <= len(opened) < 40


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_held_leaves_nobody_behind(
    model: Model, files: list[Path], workers: int
) -> None:
    stream = heatproof.explain_each(model, files, torch.randn(2, 5), workers=workers)
    with pytest.raises(PromptError, match="got embeddings of width 5") as held:
        next(stream)
    assert not multiprocessing.active_children()
    assert "_explanations" in frames_of(held)


def test_ctrl_c_that_is_held_while_a_batch_is_awaited_leaves_nobody_behind(
    model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = each(model, files, workers=1, batch_size=1)
    next(stream)
    waiting = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._get_data"

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, interrupted)
    with pytest.raises(KeyboardInterrupt) as held:
        list(stream)
    assert not multiprocessing.active_children()
    assert "_by_processes" in frames_of(held)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_workers_are_given_can_be_pickled(family: str) -> None:
    """Where processes are not forked (macOS, Windows), it is."""
    given = streaming.ImageLoader(FAMILIES[family](), ["a.png"], 2, strict=True)
    assert len(pickle.loads(pickle.dumps(given))) == 1  # noqa: S301 (our own)
