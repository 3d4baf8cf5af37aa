"""What is written: the files of the contract, a page that needs nothing else, nothing half done."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from by_hand_explanations import FAILS, HOLDS, bump, explanation, scene, worded
from heatproof.certificate import Certificate
from heatproof.errors import InputError
from heatproof.explanation import Explanation, WordExplanation
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView
from heatproof.pages import explanation_page
from heatproof.pages.folder import check_folder
from heatproof.plots.contact_sheet import Panel, sheet_row
from heatproof.plots.text import format_value
from heatproof.plots.words import WIDTH, draw_words

PROMPTS = ["a red disc", "an absent elephant"]


def made(certificate: Certificate = HOLDS, prompts=PROMPTS, **more) -> Explanation:
    maps = torch.stack([bump(3, 5, 1, 1), -0.1 * bump(3, 5, 2, 3)])[: len(prompts)]
    return explanation(
        maps, prompts, certificate=certificate, scores=[0.3, 0.1][: len(prompts)], **more
    )


def words_of(prompts=PROMPTS, values=((0.1, 0.5, 0.9), (0.0, -0.3, -0.2)), **more):
    return worded(prompts, values, **more)


def page(explanation: Explanation, words: WordExplanation | None = None, **more) -> str:
    return explanation_page.page(
        explanation.for_image(), words.for_image() if words else None, **more
    )


def shown_words(words: WordExplanation, prompt: int) -> str:
    """A prompt's paragraph on the page, each word over its colour with its value beneath."""
    prompts = list(words.record.prompts)
    maps = torch.stack([bump(3, 5, 1, 1)] * len(prompts))
    return re.findall(r'<p class="words">.*?</p>', page(explanation(maps, prompts), words), re.S)[
        prompt
    ]


class Loads(HTMLParser):
    """Every address that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [
            value or "" for key, value in attrs if key in ("src", "srcset", "href", "data")
        ]


def parsed(html: str) -> Loads:
    parser = Loads()
    parser.feed(html)
    return parser


# Files


def test_files_of_the_contract(tmp_path):
    report = made().save(tmp_path / "new" / "out", words=words_of())
    names = {path.name for path in report.parent.iterdir()}
    assert report == tmp_path / "new" / "out" / "report.html"
    assert names == {
        "explanation.json", "maps.safetensors", "overlay-0.png", "overlay-1.png",
        "report.html", "strip.png", "words.png",
    }  # fmt: skip
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]  # nothing temporary is left


def test_tensors_are_the_maps_as_they_came(tmp_path):
    e, w = made(), words_of()
    e.save(tmp_path, words=w)
    tensors = load_file(tmp_path / "maps.safetensors")
    assert set(tensors) == {"maps", "words.0", "words.1"}
    assert tensors["maps"].dtype == torch.float32
    assert tensors["maps"].shape == (2, 3, 5)
    assert torch.equal(tensors["maps"], e.maps[0])
    assert torch.equal(tensors["words.1"], w.maps[0][1])


def test_json_holds_what_made_the_explanation(tmp_path):
    made(FAILS).save(tmp_path, words=words_of())
    stored = json.loads((tmp_path / "explanation.json").read_text())
    assert set(stored) >= {
        "model", "method", "settings", "prompts", "scores", "grid", "certificate", "environment",
        "score", "seed", "photo", "view", "notices", "words", "display", "replay", "image_size",
    }  # fmt: skip
    assert stored["prompts"] == PROMPTS
    assert stored["scores"] == pytest.approx([0.3, 0.1])
    assert stored["grid"] == {"rows": 3, "cols": 5}
    assert stored["certificate"]["holds"] is False
    assert stored["certificate"]["sentence"] == FAILS.sentence
    assert stored["certificate"]["checks"][0]["value"] == 0.1788
    assert stored["environment"]["torch"] == "2.15.0"
    assert stored["view"]["unseen"] == pytest.approx(0.25)
    assert stored["display"]["scale"] == pytest.approx(float(bump(3, 5, 1, 1).max()))
    assert stored["words"]["prompts"][0]["words"][2] == {
        "text": "disc",
        "start": 6,
        "end": 10,
        "value": 0.9,
    }


def test_json_never_holds_nan(tmp_path):
    e = made()
    replace(e, scores=torch.tensor([[float("nan"), 0.1]])).save(tmp_path)
    text = (tmp_path / "explanation.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["scores"][0] is None


def test_explanation_without_certificate_is_neither_held_nor_failed(tmp_path):
    made(Certificate(checks=(), native=(), substituted=())).save(tmp_path)
    assert json.loads((tmp_path / "explanation.json").read_text())["certificate"]["holds"] is None
    assert "Not certified" in (tmp_path / "report.html").read_text()


def test_several_pictures_get_a_folder_each(tmp_path):
    maps = torch.stack([torch.stack([bump(3, 5, 1, n)] * 2) for n in range(3)])
    e = explanation(maps, PROMPTS)
    report = e.save(tmp_path)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["0000-photo-0", "0001-photo-1", "0002-photo-2"]
    for n, name in enumerate(folders):
        assert torch.equal(load_file(tmp_path / name / "maps.safetensors")["maps"], e.maps[n])
    links = parsed(report.read_text()).found
    assert all((tmp_path / link).is_file() for link in links if not link.startswith("data:"))


def test_other_files_stay_and_overlays_of_an_earlier_run_go(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "overlay-7.png").write_text("mine too")
    made().save(tmp_path, words=words_of())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "overlay-8.png").exists()
    made(prompts=PROMPTS[:1]).save(tmp_path)
    assert not (tmp_path / "overlay-1.png").exists()
    assert not (tmp_path / "words.png").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "overlay-7.png").read_text() == "mine too"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_nothing_half_written(tmp_path, monkeypatch, error):
    def stop(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("heatproof.pages.explanation_page.page", stop)
    with pytest.raises(error):
        made().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_is_found_before_anything_is_done(tmp_path):
    (tmp_path / "out").write_text("mine")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(
            InputError, match="a file is in the way of the output folder; try another"
        ):
            check_folder(folder)
    check_folder(tmp_path / "fine" / "deeper")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_that_cannot_be_written_to_is_an_input_error(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(
        InputError, match=r"cannot be written to \(permission denied\); try another -o"
    ):
        check_folder(tmp_path)


def test_full_disk_is_an_input_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("heatproof.plots.contact_sheet.Image.Image.save", full)
    with pytest.raises(InputError, match="no space left on device"):
        made().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The page


def test_page_needs_nothing_else():
    loads = parsed(page(made(), words_of()))
    assert loads.found
    assert all(address.startswith("data:image/") for address in loads.found)
    assert not {"script", "link", "iframe", "object"} & set(loads.tags)
    assert not re.search(r"url\(|@import", page(made(), words_of()))


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;"]
)
def test_user_text_is_escaped_wherever_it_stands(evil):
    e = made(prompts=[evil])
    record = replace(e.record, model=evil, method=evil, settings={evil: evil}, notices=(evil,))
    photo = Photo(scene(), f"{evil}.jpg", (evil,))
    certificate = replace(
        FAILS, native=(evil,), substituted=(evil,), null_prompts={evil: 0.5}, warnings=(evil,),
        checks=(replace(FAILS.checks[0], name=evil, evidence=evil),), environment={evil: evil},
    )  # fmt: skip
    e = replace(e, record=record, photos=(photo,), certificate=certificate)
    html = page(e, words_of([evil], [[0.1] * 30]), replay=evil)
    loads = parsed(html)
    assert evil not in html
    assert "script" not in loads.tags
    assert all(address.startswith("data:image/") for address in loads.found)


def test_page_says_what_a_reader_needs():
    html = page(
        made(FAILS, notices=("scenes knows rendered scenes only",)),
        words_of(),
        replay="heatproof explain x",
    )
    said = [
        "FAILS", FAILS.sentence.replace("'", "&#39;"), "scenes knows rendered scenes only",
        "cut off 25%",
        "a red disc", "+0.3000", "parity", "0.18 / 1e-05", "min-max normalised cosines",
        "gibberish prompt", "the map hardly changes with the prompt", "attention-x-gradient",
        "2.15.0", "heatproof explain x", "unseen (hatched)", "bilinear",
    ]  # fmt: skip
    assert [text for text in said if text not in html] == []


def test_failed_certificate_stands_above_everything():
    html = page(made(FAILS))
    assert html.index("The certificate FAILS") < html.index("<img")
    assert html.count("certificate fails") == len(PROMPTS)  # and at every map
    assert "FAILS" not in page(made(HOLDS))


def test_failed_certificate_of_the_words_alone_is_shown():
    html = page(made(HOLDS), words_of(certificate=FAILS))
    assert html.index('class="verdict fails"') < html.index('class="words"')


def test_replay_is_the_command_that_made_it(tmp_path):
    scene().save(tmp_path / "it's.jpg")
    e = made(prompts=['a "dog"'])
    photo = Photo(scene(), str(tmp_path / "it's.jpg"))
    record = replace(
        e.record, settings={"heads": "model", "layers": None}, image_size="keep", seed=3
    )
    command = explanation_page.replay_command(
        replace(e, photos=(photo,), record=record).for_image(),
        words_of(['a "dog"'], [[1.0] * 4]).for_image(),
    )
    import shlex

    assert shlex.split(command or "") == [
        "heatproof", "explain", str(tmp_path / "it's.jpg"), 'a "dog"', "--model", "scenes",
        "--method", "attention-x-gradient", "--set", "heads=model", "--score", "cosine",
        "--seed", "3", "--image-size", "keep", "--words",
    ]  # fmt: skip
    assert explanation_page.replay_command(e.for_image(), None) is None
    assert "Made from objects in memory" in page(e)


# Words


def test_words_are_shown_in_the_original_text_with_their_signs():
    html = shown_words(words_of(["A  red, disc"], [[0.1, 0.5, -0.2, -0.9]]), 0)
    assert re.sub(r"<small>.*?</small>|<[^>]+>", "", html) == "A  red, disc"
    assert "-0.900" in html
    assert "+0.500" in html


def test_words_of_all_prompts_share_one_scale():
    w = words_of(values=((0.01, 0.01, 0.02), (0.0, -1.0, 0.0)))
    assert w.for_image().scale == 1.0
    faint = re.findall(r"background:#(\w+)", shown_words(w, 0))
    strong = re.findall(r"background:#(\w+)", shown_words(w, 1))
    assert min(int(colour[2:4], 16) for colour in faint) > 245
    assert int(strong[1][:2], 16) < 140


def test_text_that_did_not_fit_is_struck_out():
    w = words_of(["a red disc beyond the context"], [[0.1, 0.2, 0.3]])
    html = shown_words(w, 0)
    assert "<del" in html
    assert html.index("<del") > html.index("disc")
    assert "beyond the context</del>" in html


@pytest.mark.parametrize("values", [[0.1], [0.1] * 9])
def test_words_are_escaped_one_by_one(values):
    """Marks such as < are words of their own, and what was cut off is one long stretch."""
    html = shown_words(words_of(["dog <script>&amp;"], [values]), 0)
    shown = re.sub(r"</?(p|span|small|del)\b[^>]*>", "", html)
    assert "<" not in shown
    assert ">" not in shown
    assert shown.count("&lt;") == 1


def test_picture_of_words_shows_both_signs_and_a_failure():
    w = words_of(values=((0.9, 0.0, 0.0), (-0.9, 0.0, 0.0)), certificate=FAILS)
    drawn = np.asarray(draw_words(w.for_image())).astype(int)
    assert (drawn[..., 0] - drawn[..., 2] > 120).any()
    assert (drawn[..., 2] - drawn[..., 0] > 120).any()
    assert (drawn == (0xA3, 0x12, 0x3A)).all(-1).mean() > 0.05


def test_one_endless_word_is_drawn():
    picture = draw_words(words_of(["x" * 500], [[0.4]]).for_image())
    assert picture.width == WIDTH


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.12345, 0.9, "+0.123"),
        (-0.000912, 0.001, "-0.00091"),
        (12.3, 45.0, "+12.3"),
        (-1e-9, 2e-9, "-1.00e-09"),
        (3e9, 3e9, "+3.00e+09"),
    ],
)
def test_figures_have_the_digits_that_their_scale_needs(value, scale, text):
    assert format_value(value, scale) == text


def test_saved_overlay_is_the_one_of_the_contract(tmp_path):
    e = made()
    e.save(tmp_path)
    with Image.open(tmp_path / "overlay-1.png") as stored:
        assert (np.asarray(stored) == np.asarray(e.overlay(0, PROMPTS[1]))).all()


def test_tensor_input_is_saved_too(tmp_path):
    e = replace(made(), photos=(), views=())
    assert e.save(tmp_path / "out").is_file()


def test_view_reaching_beyond_the_photograph_is_drawn(tmp_path):
    view = PhotoView(width=512, height=384, left=0.0, top=-64.0, right=512.0, bottom=448.0)
    assert made(views=view).save(tmp_path / "out").is_file()
    assert Path(tmp_path / "out" / "overlay-0.png").stat().st_size


def test_scores_are_the_models_own_and_those_of_a_changed_pass_stand_beside_them():
    other = replace(made(FAILS), explained_scores=torch.tensor([[0.2, 0.1]]))
    html = page(other)
    assert html.count("cosine +0.3000") == 1  # under the map
    assert html.count("+0.2000") == 1  # in the table
    assert html.count("explained pass") == 1
    assert "explained pass" not in page(made(FAILS))  # the same scores


def test_controls_are_shown_on_the_shared_scale():
    loud = Panel("random control", "noise", np.full((3, 5), 7.0, np.float32))
    html = page(made(), controls=[loud])
    assert "random control" in html
    assert "+7.00" in html  # the scale reaches as far as the control does
    assert sheet_row(made().for_image(), controls=[loud]).scale == 7.0
    assert len(sheet_row(made().for_image(), controls=[loud]).panels) == len(PROMPTS) + 1
