"""`prove` in Python and on the command line: verdicts, exit codes, files, replay."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import heatproof
from heatproof import methods
from heatproof.cli import main
from heatproof.errors import InputError, UnknownName
from heatproof.methods import ReadPass
from heatproof.proofs import counterexample, prove_methods
from heatproof.proofs import models as on_models
from heatproof.proofs.algebra import rational, symbolic
from heatproof.proofs.prove_methods import parse, prove
from heatproof.proofs.result import Proof

SOURCES = Path(main.__file__).parents[2]
FEW = ("open_clip vit", "open_clip vit, one head", "hf siglip", "timm vit")
ONE_SETTING = {"layers": 1, "spatial": "none", "projection": "none", "rectify": "none"}
PUBLISHED = "grad-eclip:heads=model,spatial=attention,layers=1"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four models in place of all, one draw of networks: the whole is run once, under `slow`."""
    subjects: Callable[..., Iterator[Any]] = lambda further: iter(  # noqa: E731
        [*map(on_models.specimen, FEW), *further]
    )
    monkeypatch.setattr(prove_methods, "_cases", subjects)
    monkeypatch.setattr("heatproof.proofs.algebra.exact.DRAWS", 1)
    monkeypatch.setattr("heatproof.proofs.algebra.exact.SIZES", ((1, 2, 1), (2, 2, 1)))


def levels(proof: Proof) -> dict[str, str]:
    return {level.name: level.verdict for level in proof.levels}


# --- verdicts --------------------------------------------------------------------------------


def test_grad_eclip_is_attention_eclip_at_all_three_levels() -> None:
    options = {"projection": "output", "rectify": "head", "layers": 1}
    proof = heatproof.prove("grad-eclip", "attention-eclip", options=options)
    assert (proof.verdict, proof.exit_code) == ("proved", 0)
    assert proof.carried_by == ("symbolic", "exact", "models")
    assert {key: len(values) for key, values in proof.varied.items()} == {
        "heads": 2,
        "spatial": 3,
    }
    assert len(proof.pairs) == 6
    assert all(step.checked for step in proof.steps)
    assert len(proof.limits) == 3
    assert proof.cost is not None
    assert proof.models.smallest is None


@pytest.mark.slow
def test_every_option_every_family(tmp_path: Path) -> None:
    """The command as users run it: in a process of its own, without the tests' type checks."""
    command = [sys.executable, "-m", "heatproof", "prove", "grad-eclip", "attention-eclip"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run([*command, "--no-cost", "-o", str(tmp_path)], env=environment, check=True)
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert (proof["verdict"], proof["carried_by"]) == ("proved", ["symbolic", "exact", "models"])
    models = proof["models"]
    assert (proof["settings"], len(models["by_model"])) == (108, 23)
    assert models["compared"] == 4248
    assert models["largest"]["relative"] < 1e-12


def test_grad_eclip_is_not_gae() -> None:
    proof = prove("grad-eclip", "gae", cost=False)
    assert (proof.verdict, proof.exit_code) == ("refuted", 1)
    assert levels(proof) == {
        "symbolic": "not applicable",
        "exact": "not applicable",
        "models": "refuted",
    }
    assert proof.carried_by == ("models",)
    assert proof.varied == {"layers": (None, 1, 2)}
    assert proof.steps == ()
    assert proof.limits == ()


def test_the_published_weight_is_the_head_mean() -> None:
    """Equal on one head, another map on several; all three levels say so."""
    proof = prove(PUBLISHED, "attention-x-gradient", cost=False)
    assert proof.carried_by == ("symbolic", "exact", "models")
    assert proof.verdict == "refuted"
    assert proof.models.by_model["specimen:open_clip vit, one head"] < 1e-12
    assert proof.models.by_model["specimen:open_clip vit"] > 0.01
    assert proof.exact is not None
    assert proof.exact.by_heads[1][1] == 0
    assert proof.exact.by_heads[2][1] > 0


def test_an_option_named_on_one_side_stays_at_its_default_on_the_other() -> None:
    proof = prove("grad-eclip:heads=model", "attention-eclip", options=ONE_SETTING, cost=False)
    assert "heads" not in proof.varied
    assert proof.verdict == "refuted"
    assert all(b.settings()["heads"] == "one" for _, b in proof.pairs)


def test_options_named_alike_on_both_sides_are_proved() -> None:
    given = "heads=model,spatial=none,projection=none,rectify=head,layers=1"
    proof = prove(f"grad-eclip:{given}", f"attention-eclip:{given}", cost=False)
    assert proof.carried_by == ("symbolic", "exact", "models")
    assert (len(proof.pairs), proof.varied) == (1, {})


def test_all_layers_are_proved_at_every_depth() -> None:
    given = "heads=model,spatial=none,projection=none,rectify=none,layers=all"
    proof = prove(f"grad-eclip:{given}", f"attention-eclip:{given}", cost=False)
    assert proof.carried_by == ("symbolic", "exact", "models")


def test_more_layers_than_exact_networks_have_is_left_to_the_algebra() -> None:
    given = "heads=one,spatial=none,projection=none,rectify=none,layers=4"
    proof = prove(f"grad-eclip:{given}", f"attention-eclip:{given}", cost=False)
    assert levels(proof) == {
        "symbolic": "proved",
        "exact": "not applicable",
        "models": "not applicable",
    }
    assert proof.verdict == "proved"


@pytest.mark.parametrize("name", ["raw-attention", "random", "gae:layers=1"])
def test_a_method_is_itself(name: str) -> None:
    proof = prove(name, name, cost=False)
    assert proof.verdict == "proved"
    assert levels(proof)["symbolic"] == "proved"
    assert proof.models.differing == 0
    assert proof.limits == ()


@dataclass(frozen=True)
class Namesake(methods.RawAttention):
    """Raw attention that nobody told the algebra about."""


@dataclass(frozen=True)
class Broken(methods.GradECLIP):
    """Grad-ECLIP by name, with one value off in 10^6."""

    def attribute(self, read: ReadPass) -> Tensor:
        return super().attribute(read) * (1 + 1e-6)


def test_equal_without_a_proof_is_open_not_proved() -> None:
    proof = prove("raw-attention", Namesake(), cost=False)
    assert (proof.verdict, proof.exit_code) == ("open", 3)
    assert levels(proof)["models"] == "not refuted"
    assert "OPEN: neither proved nor refuted (not refuted on 4 models)" in proof.markdown()


def test_code_that_strays_from_its_formula_is_refuted_on_models() -> None:
    proof = prove(Broken(heads="model"), methods.AttentionECLIP(heads="model"), cost=False)
    assert proof.carried_by == ("models",)


def test_a_route_that_is_off_is_refuted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    true = rational.by_channels

    def off(*given: Any) -> Any:
        return [[[x + Fraction(1, 10**30) for x in r] for r in rows] for rows in true(*given)]

    monkeypatch.setattr(rational, "by_channels", off)
    proof = prove("grad-eclip", "attention-eclip", options=ONE_SETTING, cost=False)
    assert proof.verdict == "refuted"
    assert proof.carried_by == ("exact",)


def test_an_unchecked_step_keeps_a_proof_open(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = symbolic.chain_rule(2 * symbolic.CHANNEL_SUM)
    monkeypatch.setattr(symbolic, "derivation", lambda: (wrong,))
    proof = prove("grad-eclip", "attention-eclip", options=ONE_SETTING, cost=False)
    assert proof.verdict == "open"
    assert "(NOT CHECKED: " in proof.markdown()


# --- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refuted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a pair that is refuted at all levels."""
    folder = tmp_path_factory.mktemp("refuted")
    pairs = (methods.create("grad-eclip", heads="model"), methods.create("grad-eclip"))
    exact = prove_methods.exact.compare([pairs])
    assert exact is not None
    assert exact.smallest is not None
    counterexample.save_exact(exact.smallest, folder)
    run = on_models.compare([pairs], iter([on_models.specimen("open_clip vit")]))
    assert run.smallest is not None
    counterexample.save_on_model(run.smallest, folder)
    return folder


@pytest.fixture
def files(refuted: Path, tmp_path: Path) -> Path:
    """A copy that a test may tamper with."""
    for file in refuted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def tamper(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    text = json.loads(file.read_text())
    change(text)
    file.write_text(json.dumps(text))
    return file


@pytest.mark.parametrize("name", [counterexample.EXACT, counterexample.MODEL])
def test_counterexamples_replay(files: Path, name: str) -> None:
    found = counterexample.replay(files / name)
    assert found.reproduced, found.reason


def test_word_side_and_class_names_replay(tmp_path: Path) -> None:
    pair = (methods.create("raw-attention"), methods.create("rollout"))
    for family, side in (("open_clip vit", "text"), ("timm vit", "image")):
        run = on_models.compare([pair], iter([on_models.specimen(family)]))
        assert run.smallest is not None
        found = run.smallest
        if found.place.side != side:
            found = on_models.ModelDifference(
                found.case,
                pair,
                on_models.Place(
                    model="",
                    side=side,
                    item=1,
                    target=0,
                    token=0,
                    settings=("", ""),
                    absolute=1,
                    relative=1,
                ),
                0,
            )
        assert counterexample.replay(counterexample.save_on_model(found, tmp_path)).reproduced


def test_a_tampered_exact_counterexample_fails(files: Path) -> None:
    path = files / counterexample.EXACT
    text = path.read_text()

    def shift(data: dict[str, Any]) -> None:
        data["maps"][1][0] = str(Fraction(data["maps"][1][0]) + Fraction(1, 10**40))

    found = counterexample.replay(tamper(path, shift))
    assert not found.reproduced
    assert "grad-eclip at token 0 is" in found.reason
    path.write_text(text)
    found = counterexample.replay(tamper(path, lambda data: data.update(difference="1/3")))
    assert not found.reproduced
    assert found.reason == "the difference is not the recorded 1/3"
    path.write_text(text)

    def agree(data: dict[str, Any]) -> None:
        data["methods"][1] = data["methods"][0]
        data["maps"][1], data["difference"] = data["maps"][0], "0"

    found = counterexample.replay(tamper(path, agree))
    assert (found.reproduced, found.reason) == (False, "the maps do not differ")
    path.write_text(text)
    found = counterexample.replay(
        tamper(path, lambda data: data["network"]["tokens"][0].__setitem__(0, 2))
    )
    assert not found.reproduced


def test_tampered_maps_on_a_model_fail(files: Path) -> None:
    path = files / counterexample.MODEL
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors["map_b"][2] += 1e-3
    save_file(tensors, path.with_suffix(".safetensors"))
    found = counterexample.replay(path)
    assert not found.reproduced
    assert "grad-eclip at token 2 is" in found.reason


def test_tampered_input_difference_and_weights_fail(files: Path) -> None:
    path = files / counterexample.MODEL
    text = path.read_text()
    found = counterexample.replay(tamper(path, lambda data: data.update(difference=0.5)))
    assert (found.reproduced, found.reason) == (False, "the difference is not the recorded 0.5")
    path.write_text(text)
    found = counterexample.replay(tamper(path, lambda data: data.update(weights_hash="0" * 64)))
    assert not found.reproduced
    assert "has other weights here" in found.reason
    path.write_text(text)
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors["pixels"] += 0.1
    save_file(tensors, path.with_suffix(".safetensors"))
    assert not counterexample.replay(path).reproduced


def test_maps_that_agree_are_no_counterexample(files: Path) -> None:
    path = files / counterexample.MODEL
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors["map_b"] = tensors["map_a"]
    save_file({k: v.clone() for k, v in tensors.items()}, path.with_suffix(".safetensors"))

    def agree(data: dict[str, Any]) -> None:
        data["methods"][1] = data["methods"][0]
        data["difference"] = 0.0

    found = counterexample.replay(tamper(path, agree))
    assert (found.reproduced, found.reason) == (
        False,
        "the maps do not differ beyond the tolerance",
    )


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no methods": (lambda data: data.pop("methods"), "is damaged"),
    "one method": (lambda data: data["methods"].pop(), "is damaged"),
    "unknown method": (lambda data: data["methods"][0].update(name="nope"), "unknown method"),
    "words for numbers": (lambda data: data["network"].update(heads="many"), "is damaged"),
    "ragged": (lambda data: data["network"]["tokens"][0].pop(), "is damaged"),
    "no layers": (lambda data: data["network"].update(layers=[]), "is damaged"),
    "zero tokens": (lambda data: data["network"].update(tokens=[]), "is damaged"),
    "huge": (lambda data: data["network"].update(tokens=[[1] * 2000]), "larger than 64"),
    "another format": (lambda data: data.update(format="x"), "is no counterexample"),
    "another kind": (lambda data: data.update(kind="x"), "is no counterexample"),
    "token out of range": (lambda data: data.update(token=99), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_an_input_error(files: Path, damage: str) -> None:
    change, said = DAMAGE[damage]
    path = tamper(files / counterexample.EXACT, change)
    with pytest.raises(InputError, match=said) as caught:
        counterexample.replay(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_input_errors(files: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        counterexample.replay(files / "none.json")
    (files / "text.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        counterexample.replay(files / "text.json")
    path = files / counterexample.MODEL
    path.with_suffix(".safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        counterexample.replay(path)
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        counterexample.replay(path)


def test_a_replayed_file_names_no_other_folder(files: Path) -> None:
    """The tensors are looked for beside the text, wherever it points to."""
    inside = files / "inside"
    inside.mkdir()
    path = files / counterexample.MODEL
    moved = tamper(path, lambda data: data.update(tensors=f"../{data['tensors']}"))
    assert counterexample.replay(moved.rename(files / "again.json")).reproduced
    (inside / "again.json").write_text((files / "again.json").read_text())
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        counterexample.replay(inside / "again.json")


def test_saved_proof_holds_what_was_found(tmp_path: Path) -> None:
    proof = prove(PUBLISHED, "attention-x-gradient", seed=4)
    names = [path.name for path in proof.save(tmp_path / "a" / "b")]
    assert names == ["proof.json", "proof.md", "counterexample.json", "counterexample-exact.json"]
    stored = json.loads((tmp_path / "a" / "b" / "proof.json").read_text())
    assert (stored["verdict"], stored["exit_code"], stored["seed"]) == ("refuted", 1, 4)
    assert [level["verdict"] for level in stored["levels"]] == ["refuted"] * 3
    assert stored["models"]["largest"]["relative"] > 0.1
    assert stored["cost"]["sides"][1]["method"] == "attention-x-gradient"
    page = (tmp_path / "a" / "b" / "proof.md").read_text()
    for step in proof.steps:
        assert step.latex in page
    assert "## What remains" in page
    assert page.count("| specimen:") == 4
    for line in page.splitlines():
        assert line.count("$$") in (0, 2)


def test_a_proof_without_counterexample_removes_an_earlier_one(files: Path) -> None:
    prove("raw-attention", "raw-attention", cost=False).save(files)
    assert not list(files.glob("counterexample*"))


# --- asking ----------------------------------------------------------------------------------


def test_options_are_read() -> None:
    assert parse("gae") == ("gae", {})
    assert parse("grad-eclip:heads=model, layers=1") == (
        "grad-eclip",
        {"heads": "model", "layers": "1"},
    )
    for wrong in ("gae:", "gae:layers", "gae:=1", "gae:layers=1,"):
        with pytest.raises(InputError, match="expected NAME or NAME:OPTION=VALUE"):
            parse(wrong)


def test_wrong_questions_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_models, "compare", None)
    with pytest.raises(UnknownName, match="unknown method 'grad-clip'"):
        prove("grad-clip", "gae")
    with pytest.raises(UnknownName, match="unknown option of gae 'heads'"):
        prove("gae:heads=one", "gae")
    with pytest.raises(InputError, match="neither gae nor rollout has an option 'heads'"):
        prove("gae", "rollout", options={"heads": "one"})
    with pytest.raises(InputError, match="got the model 'nope'"):
        prove("gae", "rollout", models=["nope"])


def test_a_further_model_is_compared() -> None:
    proof = prove("raw-attention", "raw-attention", models=["scenes:step-00000"], cost=False)
    assert "scenes:step-00000" in proof.models.by_model


# --- the command line ------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main.run(["prove", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_exit_codes_and_levels_on_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    layers = [f"--set={key}={value}" for key, value in ONE_SETTING.items()]
    code, out, _ = run(capsys, "grad-eclip", "attention-eclip", "--no-cost", *layers)
    assert code == 0
    assert "grad-eclip = attention-eclip?  PROVED (symbolic, exact, models)" in out
    code, out, _ = run(capsys, "grad-eclip", "gae", "--no-cost", "-o", str(tmp_path))
    assert code == 1
    assert "REFUTED (models)" in out
    written = tmp_path / counterexample.MODEL
    assert f"replay: heatproof prove --replay {written}" in out
    code, out, _ = run(capsys, "--replay", str(written))
    assert code == 0
    assert out.startswith("REPLAYED: difference ")
    tamper(written, lambda data: data.update(difference=2.0))
    code, out, _ = run(capsys, "--replay", str(written))
    assert code == 1
    assert "DOES NOT REPLAY: " in out
    assert "the difference is not the recorded 2" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gae"], "expected two methods"),
        (["gae", "nope"], "unknown method 'nope'"),
        (["gae", "gae", "--set", "layers"], "expected OPTION=VALUE"),
        (["gae", "gae", "--replay", "x.json"], "and --replay; the file names its methods"),
        (["--replay", "x.json"], "there is no file x.json"),
        (["gae", "gae", "-o", "pyproject.toml"], "a file is in the way"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


def test_the_command_line_imports_no_torch_to_list_prove() -> None:
    script = (
        "import sys; from heatproof.cli import main as cli; cli.run(['prove', '--help']); "
        "assert not {'torch', 'sympy'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_prove_is_the_function_not_a_module() -> None:
    import heatproof.cli.prove

    assert callable(heatproof.prove)
    assert heatproof.prove is prove
    assert torch.is_grad_enabled()
