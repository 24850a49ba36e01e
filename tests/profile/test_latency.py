"""Time and memory of forward passes."""

import json
import subprocess
import sys
from itertools import product

import pytest
import torch
from torch import nn

from dvfl.profile import ProfileError, machine, package_versions, peak_memory_mb, profile_model
from dvfl.profile.latency import Measurement, measure

SMALL = {
    "num_classes": 5,
    "frames": 4,
    "img_size": 32,
    "overrides": {"embed_dim": 12, "depths": [1, 1, 1, 1]},
    "threads": 1,
}


def test_median_and_rate_of_a_batch() -> None:
    summary = Measurement([0.4, 0.1, 0.2], peak_memory=5_000_000, peak_memory_increase=1_000_000).summary(batch=8)
    assert summary == {
        "batch": 8,
        "repeats": 3,
        "latency_ms": 200.0,
        "latency_p95_ms": None,
        "latencies_ms": [400.0, 100.0, 200.0],
        "clips_per_second": 40.0,
        "peak_memory_mb": 5.0,
        "peak_memory_increase_mb": 1.0,
    }


@pytest.mark.parametrize(("repeats", "p95"), [(19, None), (20, 19.05), (101, 96.0)])
def test_p95_needs_twenty_passes(repeats: int, p95: float | None) -> None:
    seconds = [each / 1e3 for each in range(1, repeats + 1)]
    assert Measurement(seconds, 0, 0).summary(1)["latency_p95_ms"] == p95


@pytest.mark.parametrize(("repeats", "passes"), [(3, 4), (50, 55)])
def test_warm_up_is_not_timed(repeats: int, passes: int) -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, clips):
            assert not self.training and torch.is_inference_mode_enabled()
            self.calls += 1
            return clips

    model = Counting().train()
    assert len(measure(model, torch.zeros(1), repeats=repeats).seconds) == repeats
    assert model.calls == passes


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_the_passes(precision, dtype: torch.dtype) -> None:
    seen = []

    class Seeing(nn.Linear):
        def forward(self, clips):
            seen.append(super().forward(clips).dtype)

    measure(Seeing(2, 2), torch.zeros(1, 2), repeats=3, precision=precision)
    assert set(seen) == {dtype}


def test_memory_of_known_tensors() -> None:
    """Two results of 64 MB that live together, after weights of 32 MB, in a fresh process."""
    code = """
import json, torch
from torch import nn
from dvfl.profile.latency import measure

class Known(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(8_000_000))

    def forward(self, clips):
        first = torch.ones(16_000_000)
        return first + first

print(json.dumps(measure(Known(), torch.zeros(1), repeats=3).summary(1)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    # A result lives until the next pass has made its first tensor, never longer.
    assert 128 <= summary["peak_memory_increase_mb"] < 140
    assert summary["peak_memory_mb"] > summary["peak_memory_increase_mb"] + 32


PLUGIN = """
import torch
from dvfl.models import register_model

@register_model
def flat(*, num_classes, num_frames, img_size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(num_frames * 3 * img_size**2, num_classes))
"""


def test_profile_is_plain_json_and_says_what_it_was_made_with() -> None:
    profile = profile_model("vfl_net", **SMALL, batch_sizes=[1, 2], repeats=20)
    assert json.loads(json.dumps(profile)) == profile
    assert list(profile) == [
        "model", "num_classes", "frames", "img_size", "overrides", "params", "gmacs", "gflops", "gmacs_by_operator",
        "other_gops", "activations_m", "uncounted", "weights_mb", "precision", "device", "threads", "machine",
        "batches",
    ]  # fmt: skip
    assert profile["gflops"] == pytest.approx(2 * profile["gmacs"])
    assert profile["gmacs"] == pytest.approx(sum(profile["gmacs_by_operator"].values()))
    assert profile["weights_mb"] == pytest.approx(4 * profile["params"] / 1e6, rel=0.05)
    assert profile["threads"] == 1
    assert [batch["batch"] for batch in profile["batches"]] == [1, 2]
    for batch in profile["batches"]:
        assert batch["repeats"] == 20 and batch["latency_p95_ms"] >= batch["latency_ms"] > 0
        assert batch["clips_per_second"] == pytest.approx(batch["batch"] / batch["latency_ms"] * 1e3, rel=1e-2)
        assert batch["peak_memory_mb"] > batch["peak_memory_increase_mb"] >= 0


def test_models_of_plugins_are_profiled(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    profile = profile_model("flat", num_classes=3, frames=2, img_size=4, repeats=3, plugins=[str(tmp_path / "mine.py")])
    assert profile["gmacs"] * 1e9 == pytest.approx(2 * 3 * 4 * 4 * 3)
    assert profile["params"] == 2 * 3 * 4 * 4 * 3 + 3
    assert profile["uncounted"] == {}


def test_a_model_that_cannot_be_measured_says_why() -> None:
    with pytest.raises(ProfileError, match=r"vfl_ned, batch of 1: .*did you mean 'vfl_net'"):
        profile_model("vfl_ned", num_classes=2)


def test_machine_and_packages() -> None:
    here = machine()
    assert here["cpu"] and here["cores"] >= here["usable_cores"] >= 1 and here["memory_gb"] > 0
    assert here["torch"] == torch.__version__.partition("+")[0] or here["torch"] == torch.__version__
    assert package_versions(["pytest", "no-such-package"]) == {"pytest": pytest.__version__}


def test_peak_memory_of_this_process_is_not_that_of_its_parent() -> None:
    """The parent holds 500 MB when it starts the child, which holds next to nothing."""
    code = "from dvfl.profile import peak_memory_mb; print(peak_memory_mb()['process'])"
    held = bytearray(b"x" * 500_000_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_mb()["process"] > len(held) / 1e6 > 100 > float(done.stdout)


def test_exported_forms_are_timed_in_their_own_runtimes() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason="the extra `export` is not installed")
    profile = profile_model("vfl_net", **SMALL, repeats=3, exported=["float32", "bfloat16", "int8"])
    forms = {(form["runtime"], form["precision"]): form for form in profile["exported"]}
    whole, half, quarter = (forms["openvino", precision] for precision in ("float32", "bfloat16", "int8"))
    assert forms.keys() - {("openvino", "bfloat16")} == set(product(("onnxruntime", "openvino"), ("float32", "int8")))
    for form in forms.values():
        (batch,) = form["batches"]
        assert batch["batch"] == 1 and batch["latency_ms"] > 0
        assert form["threads"] == profile["threads"]
        assert batch["peak_memory_mb"] < profile["batches"][0]["peak_memory_mb"]  # there is no PyTorch in it
    assert 0.5 < half["file_mb"] / whole["file_mb"] < 0.7
    assert 0.5 < quarter["file_mb"] / half["file_mb"] < 0.7
