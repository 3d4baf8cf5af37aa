"""Bundles: what was written holds; what was changed, with its hashes made right again, does not."""

import hashlib
import json
import zipfile

import pytest
from safetensors.torch import load, save

import heatproof
from heatproof.cli import main
from heatproof.errors import InputError
from heatproof.evaluation.store import PartStore
from heatproof.recipes.grad_eclip_paper import bundle, bundle_check
from heatproof.recipes.grad_eclip_paper.context import Study
from heatproof.recipes.grad_eclip_paper.scenes_material import scenes_material

SIZES = {"images": 4, "located": 4, "captions": 4}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model = heatproof.load("scenes")
    material = scenes_material(**SIZES, seed=0, graded=False)
    folder = tmp_path_factory.mktemp("bundle")
    store = PartStore(folder / "parts", {})
    study = Study(model=model, double=None, material=material, store=store, seed=0)
    environment = {
        "model": "scenes", "weights_sha256": model.weights_hash, "dtype": "float32",
    }  # fmt: skip
    result = {
        "command": "heatproof reproduce", "environment": environment, "data": material.name,
        "settings": SIZES, "sections": {}, "conclusions": [],
    }  # fmt: skip
    bundle.write(study, result, folder / "b.zip")
    return folder / "b.zip"


def changed(path, member, change):
    """A copy of the bundle with one member changed, its hash with it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if member.endswith(".json"):
        values = json.loads(members[member])
        change(values)
        members[member] = json.dumps(values).encode()
    else:
        tensors = load(members[member])
        change(tensors)
        members[member] = save(tensors)
    about = json.loads(members["bundle.json"])
    if member != "bundle.json":
        about["members"][member] = hashlib.sha256(members[member]).hexdigest()
        members["bundle.json"] = json.dumps(about).encode()
    copy = path.with_name(f"changed-{member}.zip")
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return copy


def failing(path):
    return [check.name for check in bundle_check.check(path) if check.verdict == "fails"]


def test_a_bundle_holds_and_its_first_maps_come_from_the_model(written):
    checks = bundle_check.check(written)
    assert {check.verdict for check in checks} == {"holds"}
    assert sum("from the model itself" in check.name for check in checks) == 3


def test_a_bundle_holds_no_pixels_and_no_pickle(written):
    with zipfile.ZipFile(written) as archive:
        assert sorted(archive.namelist()) == [
            "bundle.json", "ladder.safetensors", "maps.safetensors", "parts.safetensors",
            "reproduce.json",
        ]  # fmt: skip
        about = json.loads(archive.read("bundle.json"))
    assert len(about["images"]) == 4
    assert len({image["pixels"] for image in about["images"]}) == 4


def scaled(name, factor=1.01):
    def change(tensors):
        tensors[name] = tensors[name] * factor

    return change


TAMPERED = [
    ("maps.safetensors", "grad-eclip", "one map"),
    ("maps.safetensors", "attention-eclip", "one map"),
    ("maps.safetensors", "attention-x-gradient", "replay of attention-x-gradient"),
    ("maps.safetensors", "grad-eclip scores", "scores of rung 1"),
    ("parts.safetensors", "own weights", "adds up to one"),
    ("parts.safetensors", "own gradient", "own: dS/dA is g . v"),
    ("parts.safetensors", "published value", "the model's own values"),
    ("parts.safetensors", "own output", "own: the output is A v"),
    ("parts.safetensors", "published spatial", "replay of the loosened weight"),
    ("ladder.safetensors", "own", "first rung"),
    ("ladder.safetensors", "published", "second rung"),
    ("ladder.safetensors", "scores", "scores of rung 0"),
]


@pytest.mark.parametrize(("member", "name", "wanted"), TAMPERED)
def test_a_number_that_was_changed_by_a_hundredth_fails(written, member, name, wanted):
    assert any(wanted in failed for failed in failing(changed(written, member, scaled(name))))


def test_maps_of_zeros_and_of_no_numbers_fail(written):
    for factor in (0.0, float("nan")):
        names = failing(changed(written, "maps.safetensors", scaled("grad-eclip", factor)))
        assert any("replay of grad-eclip" in name for name in names)


def test_a_verdict_that_the_numbers_do_not_give_fails(written):
    def add(result):
        claim = {"section": "a", "claim": "x", "verdict": "shown", "evidence": ""}
        result["conclusions"].append(claim)

    assert failing(changed(written, "reproduce.json", add)) == ["verdicts follow from the numbers"]


def test_a_wrong_hash_fails(written):
    def forget(about):
        about["members"]["maps.safetensors"] = "0" * 64

    assert failing(changed(written, "bundle.json", forget)) == ["hashes of the members"]


def test_other_weights_are_said_to_be_missing(written):
    def other(about):
        about["weights_sha256"] = "0" * 64

    path = changed(written, "bundle.json", other)
    verdicts = [check.verdict for check in bundle_check.check(path)]
    assert "not possible here" in verdicts
    assert failing(path) == ["one hash of the weights"]


def test_what_is_no_bundle_is_one_line(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("bundle.json", "{}")
    for name, wanted in (("x.zip", "cannot be read"), ("y.zip", "format"), ("z.zip", "no file")):
        with pytest.raises(InputError, match=wanted):
            bundle_check.check(tmp_path / name)


def test_the_command_checks_with_exit_codes(written, capsys):
    assert main.run(["reproduce", "--check", str(written)]) == 0
    assert "holds" in capsys.readouterr().out
    wrong = changed(written, "maps.safetensors", scaled("grad-eclip"))
    assert main.run(["reproduce", "--check", str(wrong)]) == 1


def test_an_unpacked_giant_is_refused(written, monkeypatch):
    monkeypatch.setattr(bundle_check, "LARGEST", 10)
    with pytest.raises(InputError, match="cannot be read"):
        bundle_check.read(written)
