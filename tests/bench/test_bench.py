"""The oracle agrees with the golden values, a pair that disagrees is refused, and the table says what was measured."""

from __future__ import annotations

import gc
import json
import math
import re
import weakref
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from dvfl.bench import pairs, products, table
from dvfl.bench.literal import LiteralVideoFocalNet
from dvfl.bench.models import Step, kept_bytes, networks, random_clips
from dvfl.bench.pairs import Disagreement, Pair, Result, Sides, Sizes, Unavailable, chosen, measure
from dvfl.bench.table import SHOWN, cells, read_benchmark
from dvfl.cli import cli
from dvfl.deploy.runtimes import RUNTIMES
from dvfl.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = Sizes(
    frames=2, img_size=32, short_side=36, num_classes=5, step_batch=2, clip_frames=8, clip_height=48, large_frames=8,
    large_height=90, clips=2, threads=1,
)  # fmt: skip


@pytest.mark.parametrize("name", ["nano_like", "two_deep_eight_frames"])
def test_the_literal_network_gives_the_golden_logits_and_gradients(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    known = {key: config[key] for key in ("num_classes", "embed_dim", "depths")}
    model = LiteralVideoFocalNet(**known)
    model.load_state_dict({key[6:]: value for key, value in values.items() if key.startswith("state.")})
    logits = model(values["input"])
    assert (logits - values["logits"]).abs().max() <= 1e-5 * values["logits"].abs().max()
    (logits * values["probe"]).sum().backward()
    for key, parameter in model.named_parameters():
        if f"grad.{key}" in values:
            wanted = values[f"grad.{key}"]
            assert (parameter.grad - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    "name", ["forward/vfl_net/batch1/float32", "forward/vfl_net/batch1/bfloat16", "step/vfl_net/float32",
             "step/vfl_net/bfloat16/recompute",
             "loader/ucf101/live", "loader/ucf101/stored", "loader/720p/stored",
             "loader/own/live", "loader/own/stored"],
)  # fmt: skip
def test_both_sides_of_a_pair_agree_and_are_timed(name, colour_clips):
    if name.startswith("loader"):
        pytest.importorskip("decord")
    result = measure(pairs.all_pairs()[name], replace(TINY, own_clips=str(colour_clips)))
    assert result.rounds >= 5
    assert result.slow > 0 and result.fast > 0
    assert result.ratio_q1 <= result.ratio <= result.ratio_q3
    assert result.deviation <= result.tolerance


def test_own_clips_have_to_be_named():
    with pytest.raises(Unavailable, match="--clips FOLDER"):
        measure(pairs.all_pairs()["loader/own/live"], TINY)


def a_pair(sides: Sides, **about) -> Pair:
    about = {"tolerance": 0.1, "target": 2.0} | about
    return Pair(name="p", what="w", slow="s", fast="f", prepare=lambda sizes: sides, **about)


@pytest.mark.parametrize("deviation", [0.2, float("nan")])
def test_a_pair_that_disagrees_is_refused_before_it_is_timed(deviation):
    def never():
        raise AssertionError("timed all the same")

    with pytest.raises(Disagreement, match=r"p: the sides differ by"):
        measure(a_pair(Sides(never, never, deviation)), TINY)


def test_a_broken_network_is_refused(monkeypatch):
    from dvfl.bench import models

    def broken(*arguments, build=models.create_model, **options):
        network = build(*arguments, **options)
        network.head.register_forward_hook(lambda module, inputs, output: output * 1.001)
        return network

    monkeypatch.setattr(models, "create_model", broken)
    with pytest.raises(Disagreement):
        measure(pairs.all_pairs()["forward/vfl_net/batch1/float32"], TINY)


@pytest.mark.parametrize(("deviation", "shown"), [(None, ""), (0.0, "0"), (0.0123, "1.2e-02")])
def test_the_table_says_what_was_compared(deviation, shown):
    row = dict(zip(SHOWN, cells(measure(a_pair(Sides(lambda: 0, lambda: 0, deviation)), TINY)), strict=True))
    assert row["deviation"] == shown


@pytest.mark.parametrize(("unit", "shown"), [("s", "1.50"), ("MB", "")])
def test_the_table_has_cpu_time_beside_seconds_alone(unit, shown):
    result = measure(a_pair(Sides(lambda: 0, lambda: 0, 0.0), unit=unit), TINY)
    row = dict(zip(SHOWN, cells(replace(result, cpu_ratio=1.5)), strict=True))
    assert row["of CPU time"] == shown


def test_sides_are_measured_in_turn():
    calls = []
    sides = Sides(lambda: calls.append("slow"), lambda: calls.append("fast"), deviation=0.0)
    measure(a_pair(sides), TINY)
    assert pairs.ROUNDS >= 5
    assert calls == ["slow", "fast"] * (pairs.ROUNDS + 1)  # once to warm up


def test_ratio_spread_and_what_was_met():
    amounts = iter([8, 2, 6, 2, 4, 2, 2, 2, 10, 2])  # slow, fast, ...
    sides = Sides(lambda: 0, lambda: 0, 0.0, amount=lambda side: next(amounts))
    result = measure(a_pair(sides), TINY)
    assert (result.slow, result.fast) == (6, 2)
    assert (result.ratio_q1, result.ratio, result.ratio_q3) == (2, 3, 4)
    assert result.met is True and result.target == ">= 2x"
    one_side = Sides(None, lambda: 0, None, amount=lambda side: 5.0)
    assert measure(a_pair(one_side, target=None, limit=4.0), TINY).met is False


def test_the_note_says_what_products_take_and_what_they_could(monkeypatch):
    monkeypatch.setattr(pairs, "product_rate", lambda threads: 4e9)
    amounts, takes = iter([8.0, 5.0] * pairs.ROUNDS), iter([9.0, 1.0, 2.0])
    sides = Sides(
        lambda: 0, lambda: 0, 0.0, amount=lambda side: next(amounts), note="hm", products=lambda: next(takes),
        operations=4e9,
    )  # fmt: skip
    note = measure(a_pair(sides), TINY).note
    assert "take 2 s of a call, 4 GFLOP at 2 GFLOP/s" in note and "reaches 4)" in note
    assert note.endswith("were all else free, 4x; hm")


def test_products_are_counted_and_nothing_else():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 5), torch.nn.LayerNorm(5), torch.nn.GELU())
    assert products.count_operations(network, torch.zeros(3, 2, 3, 2, 2)) == 2 * 3 * 24 * 5


def test_products_are_what_is_timed(capfd):
    one = torch.rand(512, 512)

    def work():
        for _ in range(8):
            one @ one
        one.sin().cos()

    assert 0 < products.seconds_in_pytorch(work) < pairs.seconds(lambda: [work() for _ in range(20)])
    assert products.seconds_in_pytorch(lambda: one.sin().cos()) == 0
    assert capfd.readouterr() == ("", "")  # the profiler would announce itself
    assert products.product_rate(1) > 1e8
    kinds = {"FusedMatMul": 1.0, "FullyConnected": 2.0, "GroupConvolution": 4.0, "Gemm": 8.0, "Gelu": 16.0}
    assert products.of_products(kinds) == 15.0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exported_network_is_timed_and_its_products_are_known(runtime):
    for name in ("onnx", "onnxscript", runtime):
        pytest.importorskip(name)
    result = measure(pairs.all_pairs()[f"export/vfl_net/batch1/{runtime}/float32"], TINY)
    took = re.search(r"products take (\S+) s of a call, .* GFLOP", result.note)
    assert took and 0 < float(took[1]) < 10 * result.fast


def test_what_autograd_keeps_of_a_clip_halves_in_bfloat16_and_shrinks_when_recomputed():
    def kept(precision, recompute=False):
        network = networks("vfl_net", TINY)[1]
        network.set_grad_checkpointing(recompute)
        two, one = (kept_bytes(Step(network, random_clips(TINY, n), TINY.num_classes, precision)) for n in (2, 1))
        return two - one  # weights in bfloat16 are kept once

    linear = Step(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 3)), torch.zeros(2, 5), 3, "float32")
    assert kept_bytes(linear) == 2 * 3 * 4 + 2 * 8 + 4  # log-probabilities, labels, and the sum of their weights
    whole = kept("float32")
    assert 0.45 * whole < kept("bfloat16") < 0.6 * whole
    assert kept("float32", recompute=True) < 0.15 * whole


def test_what_autograd_keeps_is_let_go_once_counted():
    made = []
    network = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Sigmoid())
    network[1].register_forward_hook(lambda module, given, result: made.append(weakref.ref(result.untyped_storage())))
    kept_bytes(Step(network, torch.zeros(2, 5), 3, "float32"))
    gc.collect()
    assert made[0]() is None


def test_quick_is_a_part_and_names_are_beginnings():
    assert {pair.name for pair in chosen(quick=True)} < {pair.name for pair in chosen()}
    assert {pair.name for pair in chosen(["start/plan"])} == {"start/plan/seconds", "start/plan/memory"}
    with pytest.raises(UserError, match="no pair is called 'forwards'"):
        chosen(["forwards"])
    with pytest.raises(ValueError, match="registered already"):
        pairs.pair("start/help", what="", slow="", fast="")(lambda sizes: None)


def test_the_command_writes_the_table(monkeypatch, tmp_path):
    def missing(sizes):
        raise Unavailable("no such thing here")

    registered = {
        "a": a_pair(Sides(lambda: torch.zeros(1), lambda: None, 0.0, note="hm"), target=1e9),
        "b": Pair(name="b", what="w", slow="s", fast="f", prepare=missing),
    }
    monkeypatch.setattr(pairs, "all_pairs", lambda: registered)
    done = CliRunner().invoke(cli, ["bench", "--threads", "1", "--out", str(tmp_path / "benchmark")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "benchmark.csv")
    assert {field.name for field in fields(Result)} < set(table.columns)
    assert {"date", "cpu", "usable_cores", "torch", "python"} < set(table.columns)
    assert table["threads"].tolist() == [1]
    text = (tmp_path / "benchmark.md").read_text()
    for shown in (text, done.stderr):
        assert "p: hm" in shown and "b: not measured, no such thing here" in shown
    refused = CliRunner().invoke(cli, ["bench", "--quick", "--all"])
    assert refused.exit_code == 2


def test_measured_rows_stay_and_a_killed_benchmark_goes_on(monkeypatch, tmp_path):
    calls = []

    def measurable(name):
        def prepare(sizes):
            calls.append(name)
            return Sides(lambda: 0, lambda: 0, 0.0)

        return Pair(name=name, what=f"what {name} is", slow="s", fast="f", prepare=prepare, limit=1.0)

    def bench(*arguments):
        calls.clear()
        done = CliRunner().invoke(cli, ["bench", *arguments, "--out", str(tmp_path / "benchmark")])
        assert done.exit_code == 0, done.output
        assert [*pd.read_csv(tmp_path / "benchmark.csv")["name"]] == ["a", "b", "c"][: 3 if "c" in calls else 2]
        return [*calls], (tmp_path / "benchmark.md").read_text(), done.stdout

    registered = {name: measurable(name) for name in "abc"}
    monkeypatch.setattr(pairs, "all_pairs", lambda: registered)
    bench("a", "b")
    earlier = read_benchmark(tmp_path / "benchmark")
    assert earlier["a"][0].met is True and math.isfinite(earlier["a"][0].slow) and earlier["a"][1]["torch"]
    monkeypatch.setattr(table, "machine", lambda: {"cpu": "another"})
    measured, text, _ = bench("a")
    assert measured == ["a"]
    result, circumstances = read_benchmark(tmp_path / "benchmark")["b"]
    assert (repr(result), circumstances) == (repr(earlier["b"][0]), earlier["b"][1])
    assert re.search("^a: date .* cpu another, ", text, re.M) and re.search(r"^b: date .*, torch [\d.]+", text, re.M)
    measured, _, shown = bench("--missing")
    assert measured == ["c"] and all(f"what {name} is" in shown for name in "abc")
    (tmp_path / "benchmark.csv").write_text("name,ratio\na,2\n")
    refused = CliRunner().invoke(cli, ["bench", "--out", str(tmp_path / "benchmark")])
    assert refused.exit_code and calls == ["c"]
    assert isinstance(refused.exception, UserError) and "move it away" in str(refused.exception)
