"""The speed benchmarks run at small size; their tellings of the peers' scripts are right."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import heatproof

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_gpu_script_runs_on_the_processor(benchmark: Any, tmp_path: Path) -> None:
    results = tmp_path / "gpu.json"
    found = benchmark("gpu").main(
        ["--models", "scenes", "--batch", "3", "--rounds", "2", "--prompts", "1", "200",
         "--files", "5", "--workers", "0", "--side", "64", "--device", "cpu",
         "--results", str(results)]
    )  # fmt: skip
    assert json.loads(results.read_text()) == found
    rows = found["scenes"]
    assert rows["dtype"] == "bfloat16"
    assert all(rate > 0 for rate in rows["images a second from JPEG"].values())
    for row in rows["prompts"].values():
        assert row["from"] <= row["ratio"] <= row["to"]
        assert row["share of the matrix rate"] > 0


def test_the_scripts_told_by_hand_give_the_catalogues_maps(benchmark: Any) -> None:
    peers = benchmark("by_hand_peers")
    model = heatproof.load("scenes")
    visual: Any = model.module.visual
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    prompts = torch.nn.functional.normalize(torch.randn(3, visual.proj.shape[1]), dim=-1)
    expected = heatproof.explain(model, pixels, prompts, method="grad-eclip", certify=False)
    found = torch.stack([peers.grad_eclip(visual, picture[None], prompts) for picture in pixels])
    torch.testing.assert_close(found, expected.maps.flatten(2).clamp(min=0), rtol=1e-4, atol=1e-7)
    expected = heatproof.explain(model, pixels, prompts, method="gae", certify=False)
    for a_layer in (False, True):
        rows = [
            [peers.gae(visual, picture[None], prompt, a_layer=a_layer) for prompt in prompts]
            for picture in pixels
        ]
        found = torch.stack([torch.stack(row) for row in rows])
        torch.testing.assert_close(found, expected.maps.flatten(2), rtol=1e-4, atol=1e-6)


def test_the_cost_script_measures_every_part(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "speed.json"
    threads = str(torch.get_num_threads())
    parts = ["prompts", "batch", "size", "layers", "gae", "peers", "certified"]
    monkeypatch.setattr(
        sys, "argv", ["speed.py", "--model", "scenes", "--batch", "4", "--rounds", "1",
                      "--threads", threads, "--sides", "64", "96", "--results", str(results),
                      "--parts", *parts]
    )  # fmt: skip
    benchmark("speed").main()
    found = json.loads(results.read_text())
    assert list(found) == parts
    for who in ("ours", "by default", "script"):
        assert list(found["prompts"][who]) == ["1", "10", "100", "1000"]
    assert found["prompts"]["machine"]["model"] == "scenes"


def test_the_loading_script_opens_files(benchmark: Any, tmp_path: Path) -> None:
    results = tmp_path / "loading.json"
    threads = str(torch.get_num_threads())
    benchmark("loading").main(
        ["--model", "scenes", "--files", "5", "--batch", "2", "--rounds", "1", "--counts", "3",
         "--threads", threads, "--results", str(results)]
    )  # fmt: skip
    found = json.loads(results.read_text())
    assert list(found["rows"]) == [
        "explain, batch by batch",
        "explain_each, a thread",
        "explain_each, one process",
    ]
    assert all(sizes["3"] > 0 for sizes in found["MiB"].values())
