"""The ceiling of an ablation is what its parts add up to, and its two sides do the same trials."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from importlib import reload

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from dvfl import plan
from dvfl.bench import unkept
from dvfl.bench.ablation import PLAIN, REDUCED, SHARED, STUDY, Parts, Work, difference
from dvfl.bench.pairs import ROUNDS, Disagreement, Pair, Sides, Sizes, measure
from dvfl.config import DEFAULT_CONFIG, InputConfig, load_config
from dvfl.data.clips import ClipDataset
from dvfl.report.rows import table_frame
from dvfl.report.tables import write_table

WORK = Work(distilled=9, on_labels=1, epochs=10, views=8, cores=1)
PARTS = Parts(dag=7.0, start=0.0, views=0.0, together=0.0, teacher=0.0, student=0.0)


@pytest.mark.parametrize(
    ("part", "plain", "shared"),
    [
        ("start", 10, 10),
        ("views", 9 * 11 + 10, 0),  # each distilling trial looks at its teacher once before it starts
        ("together", 0, 1),
        ("teacher", 9 * 11, 8),
        ("student", 10 * 10, 10 * 10),
    ],
)
def test_each_part_is_paid_by_every_plain_trial_and_what_is_shared_once(part, plain, shared):
    parts = replace(PARTS, **{part: 2.0})
    assert WORK.plain(parts) == 7 + 2 * plain
    assert WORK.shared(parts) == 7 + 2 * shared
    assert WORK.ceiling(parts) == pytest.approx((7 + 2 * plain) / (7 + 2 * shared))
    assert replace(WORK, cores=2).plain(parts) == 7 + plain


def test_with_fewer_epochs_than_views_the_teacher_is_asked_about_no_more_views_than_epochs():
    parts = replace(PARTS, teacher=1.0)
    assert replace(WORK, epochs=3).shared(parts) == 7 + 3


def config_of(tmp_path, side):
    for name, values in {"reduced": REDUCED, "side": side}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return load_config(DEFAULT_CONFIG, tmp_path / "reduced.yaml", tmp_path / "side.yaml")


def test_the_sides_train_the_same_trials_and_differ_in_the_source_of_the_targets_alone(tmp_path):
    sides = []
    for side in (PLAIN, SHARED):
        config = config_of(tmp_path, side)
        sides.append([plan.run_settings(config, run) for run in plan.trial_runs(config, "motions", STUDY)])
    plain, shared = sides
    assert len(plain) == len(shared) == 10
    assert sum(settings.distill is not None for settings in shared) == 9
    for one, other in zip(plain, shared, strict=True):
        assert (one.distill is None) == (other.distill is None)
        if one.distill is not None:
            assert (one.distill.targets, other.distill.targets) == ("online", "auto")
            distill = one.distill.model_copy(update={"targets": "auto"})
            one = one.model_copy(update={"distill": distill})
        assert one == other


@pytest.mark.parametrize(("command", "read", "together"), [("trial", 3, 1), ("targets", 1, 8)])
def test_a_plain_trial_makes_a_view_whenever_it_is_shown(tmp_path, monkeypatch, command, read, together):
    for name in ("keep", "together"):  # put back afterwards
        monkeypatch.setattr(ClipDataset, name, getattr(ClipDataset, name))
    monkeypatch.setattr(sys, "argv", ["dvfl", command])
    reload(unkept)
    readings = []

    def read_frames(path, indices, *_):
        readings.append(indices)
        return np.zeros((len(indices), 40, 40, 3), np.uint8)

    monkeypatch.setattr("dvfl.data.clips.read_frames", read_frames)
    clip = {"clip_id": "a.avi", "label": 0, "class_name": "a", "group": "g", "frames": 16}
    index, split = pd.DataFrame([clip]), pd.DataFrame([{"clip_id": "a.avi", "subset": "train"}])
    size = InputConfig(frames=4, img_size=16, short_side=40, views=8)
    dataset = ClipDataset(index, split, tmp_path, ["train"], size, True, 0)
    views = [dataset.training_view(0, epoch) for epoch in (1, 9, 17)]
    assert all(torch.equal(view, views[0]) for view in views)
    assert len(readings) == read
    assert len(dataset.new_views(0, 1)) == together


def table(tmp_path, name, value, arm="distilled", run_ids="a"):
    row = {"dataset": "motions", "arm": arm, "metric": "top1", "unit": "percent", "value": value, "run_ids": run_ids}
    write_table(table_frame("ablation", [row]), tmp_path / name)
    return tmp_path / f"{name}.csv"


def test_tables_are_compared_but_for_the_runs_ids(tmp_path):
    one = table(tmp_path, "one", 50.0)
    assert difference(one, table(tmp_path, "same", 50.0, run_ids="b")) == 0
    assert difference(one, table(tmp_path, "other", 52.5)) == 2.5
    assert difference(one, table(tmp_path, "arm", 50.0, arm="student")) == math.inf
    assert difference(one, table(tmp_path, "none", None)) == math.inf


def test_a_target_may_be_a_share_of_the_ceiling_and_agreement_may_show_after_the_rounds():
    amounts = iter([6.0, 4.0] * 2 * ROUNDS)
    about = {"name": "p", "what": "w", "slow": "s", "fast": "f", "share": 0.8}

    def measured(**sides):
        both = Sides(lambda: 0, lambda: 0, amount=lambda side: next(amounts), note="parts", **sides)
        return measure(Pair(prepare=lambda sizes: both, **about), Sizes())

    result = measured(ceiling=2.0, deviation=lambda: 0.0)
    assert (result.target, result.met, result.note) == (">= 80% of 2x", False, "75% of the ceiling of 2x; parts")
    with pytest.raises(Disagreement, match="differ by 1,"):
        measured(ceiling=1.6, deviation=lambda: 1.0)
