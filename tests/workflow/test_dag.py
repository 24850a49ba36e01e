"""The DAG itself: what it makes, that it is made once, and what a changed value makes anew."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dvfl.files import read_json
from dvfl.report.rows import COLUMNS
from tests.workflow.conftest import PROJECT, snakemake


def planned(folder: Path, changes: dict | None = None) -> Counter:
    """Jobs by rule that a dry run with some changed values would do."""
    config = yaml.safe_load((folder / "small.yaml").read_text())
    for key, value in (changes or {}).items():
        place = config
        *path, last = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    changed = folder / "changed.yaml"
    changed.write_text(yaml.safe_dump(config))
    said = snakemake(folder, "-n", "--cores", "2", "--configfile", str(changed)).stdout
    return Counter({rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", said, flags=re.M) if rule != "total"})


def test_everything_promised_is_there(pipeline):
    table = pd.read_csv(pipeline / "results/tables/all.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert {"accuracy", "efficiency", "ablation", "claims"} <= set(table["table"])
    measured = table[(table["table"] == "accuracy") & (table["metric"] == "top1")]
    assert set(measured["arm"]) == {"teacher", "student", "distilled"}
    assert (measured["run_ids"].str.fullmatch(r"[0-9a-f]{32}(;[0-9a-f]{32})*")).all()
    for name in ("accuracy", "efficiency", "ablation", "claims", "all"):
        assert all(
            (pipeline / f"results/tables/{name}.{ending}").stat().st_size for ending in ("csv", "md", "tex", "html")
        )
    for figure in ("accuracy_vs_params", "training_curves", "confusion", "alpha_temperature", "labelled_clips"):
        assert all((pipeline / f"results/figures/{figure}.{ending}").stat().st_size for ending in ("png", "pdf", "csv"))


def test_a_bad_clip_is_counted_and_not_fatal(pipeline):
    table = pd.read_csv(pipeline / "results/tables/all.csv", keep_default_na=False)
    left_out = table[(table["metric"] == "clips_left_out") & table["setting"].str.contains("unreadable")]
    assert left_out["value"].tolist() == ["1"]


def test_a_second_run_does_nothing(pipeline):
    assert planned(pipeline) == Counter()


RERUN = {
    # Where something runs does not matter to what comes out.
    "train.workers": (1, set()),
    "evaluate.resamples": (101, {"score", "trial", "choose", "distil", "test", "tables", "figures", "all"}),
    "profile.repeats_small": (4, {"profile", "tables", "figures", "all"}),
    "tracking.artifacts": ("results/elsewhere", {"tracking"}),
}


@pytest.mark.parametrize("key", RERUN)
def test_a_changed_value_reruns_what_uses_it(pipeline, key):
    value, rules = RERUN[key]
    assert set(planned(pipeline, {key: value})) == rules


def test_a_distillation_value_leaves_the_other_arms_alone(pipeline):
    jobs = planned(pipeline, {"distill.t_squared": False})
    assert "index" not in jobs and "profile" not in jobs
    assert jobs["distil"] == 2  # both seeds; teacher and student stand
    assert "train" not in jobs
    assert jobs["trial"] == 4  # three of the grid that distil, one of labelled_clips
    assert "targets" not in jobs  # the teacher is shown the same


def test_trials_with_the_same_inputs_read_one_store_of_targets(pipeline):
    (ready,) = (pipeline / "results/targets/colours").glob("*/ready.json")
    runs = [read_json(path) for path in (pipeline / "results").glob("*/colours/**/distilled/seed*/run.json")]
    came = Counter((run["study"], run["teacher_targets"]) for run in runs if run["settings"]["distill"])
    assert came == {("alpha_temperature", "stored"): 3, ("labelled_clips", "in memory"): 1, ("", "in memory"): 2}
    assert read_json(ready)["teacher"].endswith("selection/teacher/seed0/weights.safetensors")
    assert planned(pipeline, {"distill.targets": "stored"})["targets"] == 3  # of each seed, and of fewer clips


def test_the_default_asks_a_teacher_once_for_a_study(tmp_path):
    said = snakemake(tmp_path, "-n", "-p", "--cores", "2").stdout
    assert re.search(r"^targets +1$", said, flags=re.M)
    assert re.search(r"dvfl targets results/targets/motions/[0-9a-f]{16} --wait", said)


def test_a_new_clip_is_noticed(pipeline):
    clip = next((pipeline / "clips/blue").glob("*_c0.avi"))
    extra = clip.with_name("blue_g7_c1.avi")
    extra.write_bytes(clip.read_bytes())
    try:
        assert planned(pipeline)["index"] == 1
    finally:
        extra.unlink()


def test_wrong_config_stops_before_any_job(pipeline):
    done = snakemake(
        pipeline,
        "-n",
        "--cores",
        "1",
        "--configfile",
        str(pipeline / "small.yaml"),
        "--config",
        "seed=[0]",
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "dvfl: seed: there is no such key; did you mean 'seeds'?"
    assert "Traceback" not in done.stdout and "File" not in done.stdout


def test_a_key_that_stands_twice_in_a_file_stops_before_any_job(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("seeds: [0]\nseeds: [1]\n")
    done = snakemake(tmp_path, "-n", "--cores", "1", "--configfile", str(file), check=False)
    said = f"dvfl: {file}:2: is not valid YAML: 'seeds' stands there a second time; leave one of them out"
    assert done.stdout.splitlines()[-1] == said


def test_values_of_the_command_line_are_read_as_in_a_file(tmp_path):
    # Snakemake itself takes what is in lists and mappings for text.
    values = ["seeds=[0, 1]", "train={compile: false, lr: 1e-3}", "arms={teacher_few: null, distilled_few: null}"]
    said = snakemake(tmp_path, "-n", "--cores", "2", "--config", *values).stdout
    assert re.search(r"^distil +2$", said, flags=re.M)
    wrong = snakemake(tmp_path, "-n", "--cores", "2", "--config", "seeds=[zero]", check=False)
    assert wrong.stdout.splitlines()[-1] == "dvfl: seeds.0: input should be a valid integer, not text (given: 'zero')"


def test_the_default_has_a_job_for_each_run_and_none_for_a_clip(tmp_path):
    said = snakemake(tmp_path, "-n", "--cores", "2").stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", said, flags=re.M))
    assert int(jobs["total"]) < 120


def test_the_protocols_differences_are_a_target_of_their_own(tmp_path):
    said = snakemake(tmp_path, "-n", "--cores", "2", "--", "protocol_effects").stdout
    jobs = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", said, flags=re.M)}
    assert jobs["trial"] == 14 * 3 + 2  # each with three seeds, and the study that chooses the epochs
    assert jobs["train"] == 2  # the teacher, and the one of the split that leaks
    assert not {"tables", "figures", "profile", "distil"} & set(jobs)


def test_networks_of_one_name_have_a_job_each(tmp_path):
    """The default's profiles have the names that they always had; a paper's name at another input says so."""
    file = tmp_path / "at_112.yaml"
    narrow = {"network": "student", "set": {"student.model_overrides": {"embed_dim": 32}}}
    at_112 = {
        "input": {"img_size": 112, "short_side": 128},
        "student": {"model": "vfl_net"},
        "arms": {"narrow": narrow},
    }
    file.write_text(yaml.safe_dump(at_112))
    paper = {"video_focalnet_base", "video_focalnet_small", "video_focalnet_tiny", "vfl_net"}
    teacher = "video_focalnet_w24_d1121"
    for config, own in (
        ([], {teacher, "video_focalnet_w12_d1121"}),
        (["--configfile", str(file)], {teacher, "vfl_net.112px", "vfl_net.112px.embed_dim=32"}),
    ):
        said = snakemake(tmp_path, "-n", "-p", "--cores", "2", *config).stdout
        assert set(re.findall(r"Measuring (\S+), alone", said)) == paper | own
        assert set(re.findall(r"dvfl profile (\S+) --threads", said)) == paper | own


def test_how_cost_grows_is_measured_on_demand_alone(tmp_path):
    asked = snakemake(tmp_path, "-n", "--cores", "2", "--", "growth").stdout
    assert dict(re.findall(r"^(\w+) +(\d+)$", asked, flags=re.M)) == {"growth": "1", "total": "1"}
    assert not re.search(r"^growth ", snakemake(tmp_path, "-n", "--cores", "2").stdout, flags=re.M)


def test_the_report_times_the_quick_pairs_and_all_else_does_not(tmp_path):
    report = snakemake(tmp_path, "-n", "-p", "--cores", "2", "--", "report").stdout
    assert re.search(r"^benchmark +1$", report, flags=re.M) and "dvfl bench --quick --threads" in report
    assert not re.search(r"^benchmark ", snakemake(tmp_path, "-n", "--cores", "2").stdout, flags=re.M)


def test_frames_are_stored_where_the_config_says_so(tmp_path):
    file = tmp_path / "store.yaml"
    file.write_text(yaml.safe_dump({"input": {"frame_store": {"shards": 3}}}))
    said = snakemake(tmp_path, "-n", "-p", "--cores", "2", "--configfile", str(file)).stdout
    assert re.search(r"^frames +3$", said, flags=re.M)  # whatever the number of clips
    assert "dvfl frames motions --store 36px_bilinear_q90 --shard 2 --workers" in said
    assert not re.search(r"^frames ", snakemake(tmp_path, "-n", "--cores", "2").stdout, flags=re.M)


def test_report_is_one_page_with_a_caption_for_each_table_and_figure(pipeline):
    snakemake(pipeline, "--cores", "1", "--configfile", str(pipeline / "small.yaml"), "--", "report")
    text = (pipeline / "results/report.html").read_text()
    for name in ("accuracy", "efficiency", "ablation", "claims", "alpha_temperature", "training_curves"):
        caption = (PROJECT / f"workflow/report/{name}.rst").read_text()
        assert caption.strip()
        assert name in text
