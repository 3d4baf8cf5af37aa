"""Code from outside on the command line: what is taken, and one line for what is not."""

import pytest
import torch

import tiny
from heatproof import cli
from heatproof.auditing.stranger import is_stranger, load_stranger
from heatproof.errors import InputError
from heatproof.methods import Foreign

SOURCE = """
from heatproof.methods import create

def good(model):
    return lambda picture, prompt: (model, picture, prompt)

def own(model):
    return create("raw-attention")

def fails(model):
    raise KeyError("no such layer")

def nothing(model):
    return None

number = 3
"""


@pytest.fixture(scope="module")
def model():
    return tiny.open_clip_vit(torch.float32)


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import heatproof.no_such_module\n")
    return str(path)


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("mine.py:good", True),
        ("some/where/mine.py:good", True),
        ("package.module:good", True),
        ("grad-eclip", False),
        ("all", False),
        ("mine.py", False),
        ("mine.py:", False),
        ("mine.py:not a name", False),
        ("word:good", False),
    ],
)
def test_what_names_code_from_outside(name, outside):
    assert is_stranger(name) is outside


def test_a_good_function_is_given_the_model(place, model):
    method = load_stranger(f"{place}:good", model)
    assert isinstance(method, Foreign)
    assert method.name == "good"
    assert method.call("picture", "prompt") == (model, "picture", "prompt")


def test_a_method_of_the_packages_own_kind_is_taken_as_it_is(place, model):
    assert not load_stranger(f"{place}:own", model).foreign


def test_a_module_that_can_be_imported(model, tmp_path, monkeypatch):
    (tmp_path / "somebodys").mkdir()
    (tmp_path / "somebodys" / "maps.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_stranger("somebodys.maps:good", model), Foreign)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{folder}/none.py:good", r"none\.py: no such file, expected FILE\.py:FUNCTION"),
        ("{folder}/mine.py:absent", r"mine\.py has no function 'absent'"),
        ("{folder}/mine.py:number", r"mine\.py has no function 'number'"),
        ("{folder}/mine.py:fails", r"failed with KeyError: 'no such layer'; it is given the model"),
        ("{folder}/mine.py:nothing", "returned NoneType, expected a callable"),
        ("{folder}/broken.py:good", r"broken\.py failed with ModuleNotFoundError"),
        ("no_such_package.maps:good", "cannot import 'no_such_package.maps'"),
    ],
)
def test_what_cannot_be_used_is_told(place, model, name, told):
    with pytest.raises(InputError, match=told):
        load_stranger(name.format(folder=place.removesuffix("/mine.py")), model)


# --- heatproof audit --------------------------------------------------------------------------


@pytest.fixture
def run(model, monkeypatch, tmp_path, capsys):
    """Run `heatproof audit` in an empty folder; gives exit code and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heatproof.models.load", lambda _spec, **_more: model)

    def start(*arguments: str) -> tuple[int, list[str]]:
        code = cli.run(["audit", *arguments])
        return code, capsys.readouterr().err.splitlines()

    return start


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-method"], "no-such-method"),
        (["grad-eclip", "--data", "nowhere"], "nowhere"),
        (["grad-eclip", "--data", "empty"], "empty"),
        (
            ["grad-eclip", "--principle", "3"],
            "'--principle': Input should be",
        ),
        (["grad-eclip", "--pictures", "3"], "'--pictures': Input should be"),
        (["grad-eclip", "--set", "color=red"], "color"),
        ([",", "--principle", "1"], "got no method"),
        (["none.py:good"], "none.py: no such file"),
        (["mine.py:fails"], "no such layer"),
        (["mine.py:good", "--set", "heads=one"], "no switches"),
        (["grad-eclip,raw-attention", "--set", "nobodys=1"], "none of these methods"),
    ],
)
@pytest.mark.usefixtures("place")
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, arguments, told):
    (tmp_path / "empty").mkdir()
    code, lines = run(*arguments)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("heatproof: ")
    assert told in lines[0]
    assert not (tmp_path / "audit").exists()
