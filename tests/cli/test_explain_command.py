"""`heatproof explain`: files, exit codes, notices; one line for bad input, and nothing written."""

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from by_hand_explanations import scene
from command_line import one_line
from heatproof import index
from heatproof.cli import main
from heatproof.models.geometry import PhotoView, Preprocess

ECLIP = ["photo.jpg", "a cat", "--method", "grad-eclip"]


# It works


def test_explain_writes_everything_and_says_where(run):
    code, out, err = run("explain", "photo.jpg", "a red disc", "a cat", "--words", "-o", "new/out")
    assert code == 0, err
    folder = Path("new/out")
    stored = json.loads((folder / "explanation.json").read_text())
    assert stored["prompts"] == ["a red disc", "a cat"]
    assert stored["method"] == index.meant("default", "image")[0]
    assert stored["grid"] == {"rows": 3, "cols": 5}
    tensors = load_file(folder / "maps.safetensors")
    assert tensors["maps"].shape == (2, 3, 5)
    assert {"words.0", "words.1"} < set(tensors)
    assert {p.name for p in folder.glob("*.png")} == {
        "overlay-0.png",
        "overlay-1.png",
        "strip.png",
        "words.png",
    }
    assert "a red disc" in out
    assert "certificate holds" in out
    assert out.splitlines()[-2] == f"report: {folder / 'report.html'}"
    assert out.splitlines()[-1] == "certificate: holds"
    assert stored["replay"].startswith("heatproof explain photo.jpg 'a red disc' 'a cat' --model")


def test_replay_makes_the_same_maps_again(run, monkeypatch):
    monkeypatch.setattr("heatproof.specs.check", lambda _spec: None)  # the model has no true name
    run("explain", "photo.jpg", "a red disc", "--method", "raw-attention", "--seed", "5", "-o", "a")
    import shlex

    command = shlex.split(json.loads(Path("a/explanation.json").read_text())["replay"])
    assert run(*command[1:], "-o", "b")[0] == 0
    assert Path("a/maps.safetensors").read_bytes() == Path("b/maps.safetensors").read_bytes()
    assert "--seed 5" in " ".join(command)


def test_ranks_and_the_referee_stand_beside_the_score(run):
    """Fails if they are printed and not stored, or the replay forgets them."""
    Path("names.txt").write_text("dog\ncat\nbird\n")
    code, out, err = run(
        "explain",
        "photo.jpg",
        "cat",
        "--classes",
        "names.txt",
        "--top",
        "2",
        "--method",
        "gae",
        "--referee",
        "-o",
        "a",
    )
    assert code == 0, err
    assert "the 2 best of 3 classes:" in out
    stored = json.loads(Path("a/explanation.json").read_text())
    (reading,) = stored["readings"]
    assert reading["count"] == 3
    assert f"rank {reading['rank']} of 3" in out
    checks = {check["name"]: check for check in stored["certificate"]["checks"]}
    assert -1 <= checks["agreement with banzhaf"]["value"] <= 1
    assert "agreement with banzhaf" in out
    assert "--classes names.txt" in stored["replay"]
    assert "--referee" in stored["replay"]


def test_errors_are_stored_beside_the_maps(run):
    """Fails if a method's errors are left out of the files."""
    assert run("explain", "photo.jpg", "a cat", "--method", "banzhaf", "-o", "a")[0] == 0
    tensors = load_file("a/maps.safetensors")
    assert tensors["errors"].shape == tensors["maps"].shape
    assert (tensors["errors"] > 0).all()


def test_the_best_classes_are_explained_as_ensembles_without_a_prompt(run):
    """Fails if prompts are asked for, or the ensemble's name is lost."""
    Path("names.txt").write_text("dog\ncat\nbird\n")
    Path("forms.txt").write_text("a {}\nmy {}\n")
    arguments = ("--classes", "names.txt", "--templates", "forms.txt")
    code, _, err = run("explain", "photo.jpg", *arguments, "--top", "1", "-o", "a")
    assert code == 0, err
    stored = json.loads(Path("a/explanation.json").read_text())
    assert stored["readings"][0]["rank"] == 1
    assert stored["prompts"][0] in ("dog", "cat", "bird")
    assert "mean of 2 templates" in err
    assert one_line(run("explain", "photo.jpg", "cat", "--top", "2")[2]).count("--classes")


def test_failed_certificate_exits_with_1_unless_allowed(run):
    code, out, _ = run("explain", "photo.jpg", "a cat", "--method", "grad-eclip")
    assert code == 1
    assert "CERTIFICATE FAILS: This map" in out
    assert out.splitlines()[-1] == "certificate: FAILS"
    assert Path("out/report.html").is_file()
    code, out, _ = run(
        "explain", "photo.jpg", "a cat", "--method", "grad-eclip", "--allow-uncertified"
    )
    assert code == 0
    assert "CERTIFICATE FAILS" in out


def test_without_certificate_nothing_claims_one(run):
    code, out, _ = run("explain", "photo.jpg", "a cat", "--no-certify")
    assert code == 3
    assert "not established: no check was made (certify=False)" in out
    assert out.splitlines()[-1] == "certificate: not established"
    assert "holds" not in out
    stored = json.loads(Path("out/explanation.json").read_text())["certificate"]
    assert (stored["holds"], stored["verdict"]) == (None, "not established")
    assert "Not certified: nothing is established" in Path("out/report.html").read_text()
    allowed = run("explain", "photo.jpg", "a cat", "--no-certify", "--allow-uncertified")
    assert allowed[0] == 0
    assert allowed[1].splitlines()[-1] == "certificate: not established"


def test_options_reach_the_method(run):
    code, _, err = run(
        "explain", "photo.jpg", "a cat", "--method", "attention-eclip",
        "--set", "heads=model", "--set", "spatial=attention", "--score", "logit",
    )  # fmt: skip
    assert code in (0, 1), err
    stored = json.loads(Path("out/explanation.json").read_text())
    assert stored["settings"]["heads"] == "model"
    assert stored["settings"]["spatial"] == "attention"
    assert stored["score"] == "logit"


def test_all_layers_are_asked_for_by_name(run):
    code, _, err = run("explain", "photo.jpg", "a cat", "--method", "gae", "--set", "layers=all")
    assert code == 0, err
    assert json.loads(Path("out/explanation.json").read_text())["settings"] == {"layers": "all"}


def test_several_methods_make_a_contact_sheet(run):
    code, out, _ = run(
        "explain", "photo.jpg", "a cat", "--method", "attention-x-gradient,raw-attention,random"
    )
    assert code == 1  # random noise explains nothing
    assert "random: CERTIFICATE FAILS" in out
    assert out.splitlines()[-1] == "certificate: FAILS for 1 of 3: random"
    assert "holds with limits</span>" in Path("out/report.html").read_text()
    for name in ("attention-x-gradient", "raw-attention", "random"):
        assert Path(f"out/{name}/report.html").is_file()
        assert f"{name}/report.html" in Path("out/report.html").read_text()
    with Image.open("out/sheet.png") as sheet:
        assert sheet.height > 3 * 200


def test_every_method_explains_one_picture(run):
    code, out, err = run("explain", "photo.jpg", "a cat", "--method", "all")
    assert code in (0, 1), err
    assert out.splitlines()[-2] == f"report: {Path('out/report.html')}"
    assert out.splitlines()[-1].startswith("certificate: FAILS for ")


@pytest.mark.parametrize("size", ["28x42", "keep", "native"])
def test_image_size_is_passed_on(run, size):
    code, _, err = run("explain", "photo.jpg", "a cat", "--image-size", size)
    assert code == 0, err
    stored = json.loads(Path("out/explanation.json").read_text())
    assert stored["image_size"] == size
    if size == "28x42":
        assert stored["grid"] == {"rows": 4, "cols": 6}


# Odd input: done, with a notice


def test_notices_of_the_model_stand_on_stderr_and_in_the_report(run, model, monkeypatch):
    from dataclasses import replace

    noticed = replace(model, notices=("scenes knows rendered scenes only",))
    asked: list[str] = []
    monkeypatch.setattr(
        "heatproof.models.load", lambda spec, **_more: asked.append(spec) or noticed
    )
    code, _, err = run("explain", "photo.jpg", "a cat")
    assert (code, asked) == (0, ["scenes"])  # the default model
    assert "notice: scenes knows rendered scenes only" in err
    assert "scenes knows rendered scenes only" in Path("out/report.html").read_text()


def test_animated_gif_is_explained_by_its_first_frame(run):
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    code, _, err = run("explain", "moving.gif", "a cat")
    assert code == 0
    assert "it has 2 frames; only the first is explained" in err


@pytest.mark.parametrize("size", [(1, 1), (30_000, 40), (30_000, 1), (40, 30_000)])
def test_extreme_sizes_are_explained_with_a_notice(run, size):
    Image.new("RGB", size, "red").save("odd.png")
    code, _, err = run("explain", "odd.png", "a cat")
    assert code == 0, err
    assert "notice: " in err
    assert Path("out/overlay-0.png").is_file()


def test_what_the_crop_cut_off_is_said(run, monkeypatch):
    old = Preprocess.view

    def view(self: Preprocess, w: int, h: int) -> PhotoView:
        return replace(old(self, w, h), left=w / 4, top=0.0, right=w / 2, bottom=float(h))

    monkeypatch.setattr(Preprocess, "view", view)
    code, _, err = run("explain", "photo.jpg", "a cat")
    assert code == 0
    assert "cut off 75% of the image" in err


def test_a_file_name_that_is_not_utf_8_is_written_with_escapes(run):
    """Break: write the page without an answer to what UTF-8 cannot hold."""
    Path("photo.jpg").rename("\udcff.jpg")  # as Python reads a name of the byte 0xff
    code, _, err = run("explain", "\udcff.jpg", "a cat")
    assert code == 0, err
    assert "its file's name is not UTF-8" in err
    assert "\\udcff.jpg" in Path("out/report.html").read_text("utf-8")
    stored = json.loads(Path("out/explanation.json").read_text("utf-8"))
    assert stored["photo"]["source"] == "\udcff.jpg"


def test_prompt_longer_than_the_context_says_what_was_cut(run):
    code, _, err = run("explain", "photo.jpg", "a dog " * 60, "--words")
    assert code == 0
    assert "longer than the context" in err


# Bad input: one line, exit code 2, nothing written


def png_bomb(path: str) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    Path(path).write_bytes(data + chunk(b"IEND", b""))


BAD_PICTURES = {
    "missing.jpg": (lambda _: None, "no such file"),
    "folder.jpg": (lambda path: Path(path).mkdir(), "a folder without images"),
    "notes.jpg": (
        lambda path: Path(path).write_text("hello"),
        "a text file, whatever its name says",
    ),
    "cut.jpg": (
        lambda path: Path(path).write_bytes(Path("photo.jpg").read_bytes()[:2000]),
        "cut short",
    ),
    "empty.jpg": (lambda path: Path(path).write_bytes(b""), "zero bytes"),
    "bomb.png": (png_bomb, "more pixels than is safe to unpack"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(run, name):
    make, words = BAD_PICTURES[name]
    make(name)
    code, out, err = run("explain", name, "a cat")
    assert (code, out) == (2, "")
    assert words in one_line(err)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photo.jpg"], "got no prompt, expected at least one"),
        (["photo.jpg", ""], "prompt 1 is empty"),
        (["photo.jpg", "a cat", "  "], "prompt 2 is empty"),
        (["photo.jpg", "\udcff"], "prompt 1 is not UTF-8"),
        ([], "missing argument 'photo'"),
        (["photo.jpg", "a cat", "--modle", "scenes"], "--model"),
        (["photo.jpg", "a cat", "--seed", "x"], "invalid value for '--seed'"),
        (["photo.jpg", "a cat", "--method", "grad-eclipp"], "did you mean grad-eclip"),
        (["photo.jpg", "a cat", "--method", "rollout,grad-eclipp"], "did you mean grad-eclip"),
        (["photo.jpg", "a cat", "--method", ","], "got no method"),
        ([*ECLIP, "--set", "head=model"], "did you mean heads?"),
        ([*ECLIP, "--set", "heads=modle"], "did you mean model"),
        (["photo.jpg", "a cat", "--set", "heads"], "expected OPTION=VALUE"),
        ([*ECLIP, "--set", "layers=every"], "expected a whole number or all"),
        ([*ECLIP, "--set", "layers=1.5"], "expected a whole number or all"),
        ([*ECLIP, "--set", "layers=-1"], "got layers=-1, expected 1 to"),
        ([*ECLIP[:3], "rollout,random", "--set", "zzz=1"], "has an option 'zzz'"),
        (["photo.jpg", "a cat", "--score", "cosin"], "did you mean cosine?"),
        (["photo.jpg", "a cat", "--score", "margin"], "'margin' compares prompts"),
        (["photo.jpg", "a cat", "--score", "class-logit"], "is no classifier"),
        (["photo.jpg", "a cat", "--image-size", "big"], "expected HEIGHTxWIDTH"),
        (["photo.jpg", "a cat", "--image-size", "0x224"], "expected HEIGHTxWIDTH"),
        (["photo.jpg", "a cat", "--image-size", "22x224"], "22"),
        (["photo.jpg", "a cat", "-o", "photo.jpg"], "a file is in the way of the output folder"),
        (["photo.jpg", "a cat", "--method", "center", "--words"], "explains the image side alone"),
    ],
)  # fmt: skip
def test_bad_arguments(run, arguments, words):
    code, out, err = run("explain", *arguments)
    assert (code, out) == (2, "")
    assert words.lower() in one_line(err).lower()
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("open_clip:ViT-B-61", "did you mean"),
        ("ViT-B-16", "open_clip:ViT-B-16"),
        ("nonsense", "expected"),
    ],
)
def test_unknown_models_name_their_neighbours(tmp_path, monkeypatch, capsys, model, words):
    monkeypatch.chdir(tmp_path)
    scene(64, 48).save("photo.jpg")
    assert main.run(["explain", "photo.jpg", "a cat", "--model", model]) == 2
    assert words in one_line(capsys.readouterr().err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_cuda_where_there_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scene(64, 48).save("photo.jpg")
    arguments = [
        "explain",
        "photo.jpg",
        "a cat",
        "--model",
        "open_clip:ViT-B-16",
        "--device",
        "cuda",
    ]
    assert main.run(arguments) == 2
    assert "cuda" in one_line(capsys.readouterr().err)


def test_memory_is_said_to_both_sides(run, monkeypatch):
    from heatproof.engine import api

    said: dict[str, str] = {}

    def noting(inner):
        def noted(*given, **more):
            said[inner.__name__] = more["memory"]
            return inner(*given, **more)

        return noted

    monkeypatch.setattr(api, "explain", noting(api.explain))
    monkeypatch.setattr(api, "explain_words", noting(api.explain_words))
    code, _, err = run("explain", "photo.jpg", "a cat", "--words", "--memory", "90MB")
    assert code == 0, err
    assert said == {"explain": "90MB", "explain_words": "90MB"}
    assert "expected a size" in one_line(
        run("explain", "photo.jpg", "a cat", "--memory", "lots")[2]
    )


def test_prompts_may_hold_anything_printable_or_not(run):
    code, out, err = run("explain", "photo.jpg", "日本\x1b[31m \u202e <b>&amp;")
    assert code == 0, err
    assert "\x1b" not in out
    assert Path("out/overlay-0.png").is_file()
