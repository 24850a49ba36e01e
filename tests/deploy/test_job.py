"""A trained run becomes a file that other runtimes run, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dvfl.data.clips import read_test_views
from dvfl.data.reader import probe
from dvfl.data.transforms import normalise
from dvfl.deploy import job
from dvfl.deploy.packages import ExportError, package
from dvfl.files import read_json, sha256
from dvfl.models.weights import load_network

RUN = Path("results/runs/colours/split1/as_described/teacher/seed0")
BEARS_BFLOAT16 = {"export": {"bfloat16_tolerance": 0.05}}  # 8 bits of 6 channels


@pytest.fixture(scope="module")
def graphs():
    return {}


@pytest.fixture
def runtimes(graphs, monkeypatch):
    """The packages of the extra `export`; tracing a network takes seconds, and all tests export the same one."""
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason="the extra `export` is not installed")
    trace = job.as_onnx

    def traced_once(model, *size):
        if size not in graphs:
            graphs[size] = trace(model, *size)
        graph = type(graphs[size])()
        graph.CopyFrom(graphs[size])
        return graph

    monkeypatch.setattr(job, "as_onnx", traced_once)


def export(project, precision: str, **values):
    config = project.config(values)
    return job.export_run(config, project.run(config, "teacher"), precision)


def clips(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 2, 3, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_file_gives_the_logits_of_the_original_for_any_batch(taught, runtimes, precision):
    from dvfl.deploy.runtimes import RUNTIMES, load

    report = export(taught, precision, **BEARS_BFLOAT16)
    model, _ = load_network(RUN / "weights.safetensors")
    tolerance = 1e-5 if precision == "float32" else 0.05
    for runtime in RUNTIMES:
        network = load(report["file"], runtime, precision, threads=1)
        first, kept = network(clips(1)), network(clips(1))
        for n in (1, 3, 2):
            with torch.inference_mode():
                expected = model(torch.from_numpy(clips(n))).numpy()
            np.testing.assert_allclose(network(clips(n)), expected, rtol=0, atol=tolerance * np.abs(expected).max())
        np.testing.assert_array_equal(first, kept)  # what one pass gave, the next does not overwrite
        assert report["agreement"][runtime]["relative_error"] <= tolerance


def test_half_and_a_quarter_of_the_bytes_of_the_weights(taught, runtimes):
    import onnx

    def weights(precision: str) -> int:
        graph = onnx.load(export(taught, precision, **BEARS_BFLOAT16)["file"]).graph
        return sum(onnx.numpy_helper.to_array(each).nbytes for each in graph.initializer if len(each.dims) >= 2)

    whole, half, quarter = (weights(precision) for precision in ("float32", "bfloat16", "int8"))
    assert half == whole / 2
    assert quarter == pytest.approx(whole / 4, rel=0.02)


def test_the_file_says_how_it_is_to_be_used(taught, runtimes, colour_clips):
    """A clip prepared by the metadata alone gives what `dvfl predict` would say."""
    import onnxruntime

    from dvfl.config import InputConfig
    from dvfl.deploy.onnx_file import read_about

    file = export(taught, "float32")["file"]
    about = read_about(file)
    assert about["classes"] == ["blue", "green", "red"]
    assert (about["frames"], about["img_size"], about["short_side"]) == (2, 32, 32)
    assert about["weights_sha256"] == sha256(RUN / "weights.safetensors")
    assert about["run"] == str(RUN) and about["precision"] == "float32"
    assert "floor((2 k + 1) n / 4)" in about["sampling"]
    session = onnxruntime.InferenceSession(file)
    assert [each.shape[0] for each in (*session.get_inputs(), *session.get_outputs())] == ["batch", "batch"]
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["blue", "green", "red"]'
    clip = colour_clips / "green/green_g0_c0.avi"
    views = read_test_views(clip, probe(clip).frames, InputConfig(frames=2, img_size=32, short_side=32))
    by_hand = (views.numpy() / 255 - np.reshape(about["mean"], (3, 1, 1))) / np.reshape(about["std"], (3, 1, 1))
    np.testing.assert_allclose(by_hand, normalise(views, InputConfig()).numpy(), atol=1e-6)


def test_an_exported_run_says_its_own_values_and_not_the_configs_of_today(project, runtimes, colour_clips):
    from dvfl.config import InputConfig
    from dvfl.deploy.onnx_file import read_about
    from dvfl.deploy.runtimes import load
    from dvfl.evaluate.job import predict_clip

    own = {"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.5, 1.0], "interpolation": "bicubic"}
    project.train("teacher", {"input": own | {"frames": 3}})  # another size: no other test's graph is taken for it
    report = export(project, "float32")  # of a config that has the defaults
    about = read_about(report["file"])
    assert {key: about[key] for key in own} == own and "(bicubic, antialiased)" in about["preprocessing"]
    assert about["frames"] == 3
    clip = colour_clips / "green/green_g0_c0.avi"
    shown = InputConfig(frames=about["frames"], img_size=32, short_side=32, interpolation=about["interpolation"])
    views = read_test_views(clip, probe(clip).frames, shown).numpy() / 255
    by_hand = (views - np.reshape(about["mean"], (3, 1, 1))) / np.reshape(about["std"], (3, 1, 1))
    logits = load(report["file"], "onnxruntime", "float32", threads=1)(by_hand.astype(np.float32))[0]
    probabilities = dict(zip(about["classes"], np.exp(logits) / np.exp(logits).sum(), strict=True))
    assert probabilities == pytest.approx(dict(predict_clip(clip, RUN)), abs=1e-5)


def test_no_place_on_this_machine_is_in_the_file(taught, runtimes):
    content = Path(export(taught, "float32")["file"]).read_bytes()
    assert b"focal_modulation.py" not in content and str(taught.root).encode() not in content


def test_what_was_checked_is_written_beside_it(taught, runtimes, command):
    code, out, err = command("export", "--config", taught.config_file(), "--run", RUN, "--precision", "int8")
    assert code == 0, err
    assert out.strip() == f"{RUN}/export/int8.onnx"
    report = read_json(RUN / "export/int8.json")
    assert report["sha256"] == sha256(RUN / "export/int8.onnx")
    assert report["compared_on"] == "test" and report["validation"]["trained_on"]
    assert set(report["validation"]["top1"]) == {"pytorch", "onnxruntime", "openvino"}
    for found in report["agreement"].values():
        assert found["share"] == found["top1_differs"] / found["clips"]
        assert 0 <= found["ci_low"] <= found["share"] <= found["ci_high"] <= 1
    assert err.count("top-1 differs on ") == 2 and f"{report['validation']['clips']} validation clips" in err


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_spoiled_export_is_refused(taught, runtimes, monkeypatch, precision):
    import onnx

    intact = job.as_onnx

    def spoiled(*arguments):
        graph = intact(*arguments)
        largest = max(graph.graph.initializer, key=lambda each: np.prod(each.dims))
        values = onnx.numpy_helper.to_array(largest).copy()
        values.flat[::2] *= 3
        largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
        return graph

    monkeypatch.setattr(job, "as_onnx", spoiled)
    with pytest.raises(ExportError, match=f"{precision} in .*logits within .* is allowed, so nothing was written"):
        export(taught, precision)
    assert not (RUN / "export").exists()


def test_int8_that_loses_accuracy_on_validation_is_refused(taught, runtimes, monkeypatch):
    """A head that says one class whatever it sees; test clips are not even looked at."""
    import onnx

    intact, seen = job.in_precision, []

    def deaf(*arguments):
        graph = intact(*arguments)
        (head,) = (node for node in graph.graph.node if "logits" in node.output)
        head.output[0] = "before"
        constant = onnx.numpy_helper.from_array(np.array([1e6, 0, 0], np.float32), "deaf")
        graph.graph.initializer.append(constant)
        graph.graph.node.append(onnx.helper.make_node("Add", ["before", "deaf"], ["logits"]))
        return graph

    drawn = job._clips
    monkeypatch.setattr(job, "in_precision", deaf)
    monkeypatch.setattr(job, "_clips", lambda *arguments: seen.append(arguments[2]) or drawn(*arguments))
    with pytest.raises(ExportError, match=r"int8 in \w+: top-1 on \d+ validation clips falls from .* to 33"):
        export(taught, "int8")
    assert seen == ["train", "validation"]
    assert not (RUN / "export").exists()
    assert export(taught, "int8", export={"max_accuracy_drop": 1.0})["validation"]["top1"]["openvino"] < 0.4


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "openvino"])
def test_a_package_that_is_not_there_is_one_line(taught, monkeypatch, command, missing):
    if missing != "onnx":  # it is asked for first
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason="the extra `export` is not installed")
    monkeypatch.setitem(sys.modules, missing, None)
    code, out, err = command("export", "--config", taught.config_file(), "--run", RUN)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"dvfl: {missing} is not installed") and "pip install --editable '.[export]'" in line


def test_a_package_that_breaks_is_not_said_to_be_missing(monkeypatch):
    def broken(name: str):
        raise ImportError("libfoo.so is damaged")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ImportError, match="damaged"):
        package("onnx")
