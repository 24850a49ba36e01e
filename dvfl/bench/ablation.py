"""An ablation from the start of the DAG to its table, beside one in which every trial does all for itself.

Both sides are Snakemake on the default data set: nine trials of alpha and temperature and their baseline on labels, in
copies of one folder, where clips, teachers and all else that the tables read are made already. The plain trials ask the
teacher in the loop and decode each view whenever it is shown; views, steps and table are the same. How much faster the
whole can get at most is computed first, from its parts.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dvfl import plan
from dvfl.bench.pairs import Sides, Sizes, cpu_seconds, pair, seconds
from dvfl.cli.common import load
from dvfl.config import Config
from dvfl.errors import UserError
from dvfl.launch import PROJECT
from dvfl.run import Run

STUDY = "alpha_temperature"
TABLE = Path("results/tables/ablation.csv")
# The default config with one seed, few epochs, and nothing beside the study. What the teacher knows costs no time.
REDUCED: dict[str, Any] = {
    "seeds": [0],
    "teacher": {"train": {"epochs": 1}},
    "student": {"train": {"epochs": 10}},
    "distill": {"teacher_gate": False},
    "chosen_by": [],  # else the arms would wait for the study
    "arms": {"student": None, "teacher_few": None, "distilled_few": None},
    "ablation": {"run": [], "studies": {"epochs": None, "labelled_clips": None, "protocol_effects": None}},
    "profile": {"paper_models": [], "repeats": 3, "repeats_small": 3, "benchmark": False},
}
SHARED: dict[str, Any] = {"ablation": {"run": [STUDY]}}
PLAIN: dict[str, Any] = {
    "plugins": ["dvfl.bench.unkept"],
    "ablation": {"run": [STUDY], "studies": {STUDY: {"set": {"distill.targets": "online"}}}},
}


@dataclass(frozen=True)
class Parts:
    """What an ablation is made of, in CPU seconds: each works on one core, whatever else the machine does."""

    dag: float  # Snakemake's start, and the tables
    start: float  # a trial, but for its epochs: start of the program, test, scores
    views: float  # a view of each clip, decoded and transformed
    together: float  # all views that the epochs cycle through, by one reading of each clip
    teacher: float  # its pass over these
    student: float  # an epoch's steps on views that are in memory


@dataclass(frozen=True)
class Work:
    """How much of each there is."""

    distilled: int  # trials
    on_labels: int
    epochs: int
    views: int  # that the epochs cycle through
    cores: int

    def plain(self, parts: Parts) -> float:
        """Seconds where every trial does all for itself; a distilling one looks at its teacher before it starts."""
        trials = self.distilled + self.on_labels
        shown = self.epochs * (parts.views + parts.student) + parts.start
        asked = (self.epochs + 1) * parts.teacher + parts.views
        return parts.dag + (trials * shown + self.distilled * asked) / self.cores

    def shared(self, parts: Parts) -> float:
        """Seconds where views and the teacher's answers are made once for all trials, and then cost nothing more."""
        trials = self.distilled + self.on_labels
        once = parts.together + min(self.views, self.epochs) * parts.teacher
        return parts.dag + (once + trials * (parts.start + self.epochs * parts.student)) / self.cores

    def ceiling(self, parts: Parts) -> float:
        """The largest ratio of the two: no way of sharing can be faster."""
        return self.plain(parts) / self.shared(parts)


@dataclass(frozen=True)
class Ablation:
    """A folder in which all is made but the study."""

    folder: Path
    cores: int

    @classmethod
    def prepare(cls, cores: int, reduced: dict[str, Any] = REDUCED) -> Ablation:
        """In a temporary folder; `reduced` is laid over the default config."""
        folder = Path(tempfile.mkdtemp(prefix="dvfl-bench-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for name, values in {"reduced": reduced, "shared": SHARED, "plain": PLAIN}.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
        ablation = cls(folder, cores)
        ablation.snakemake(folder, ["reduced"], str(TABLE), str(ablation.teacher() / "weights.safetensors"))
        return ablation

    def config(self) -> Config:
        return load((self.folder / "reduced.yaml", self.folder / "shared.yaml"))

    def trials(self) -> tuple[list[Run], list[Run]]:
        """Those that distil, and those on labels."""
        config = self.config()
        runs = plan.trial_runs(config, config.datasets[0], STUDY)
        distilled = [each for each in runs if plan.teacher_of(config, each) is not None]
        return distilled, [each for each in runs if each not in distilled]

    def teacher(self) -> Path:
        """The run that teaches the trials."""
        teacher = plan.teacher_of(self.config(), self.trials()[0][0])
        assert teacher is not None
        return teacher.directory

    def snakemake(self, folder: Path, configs: list[str], *targets: str) -> None:
        command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--snakefile", str(PROJECT / "Snakefile")]
        command += ["--cores", str(self.cores), "--configfile", *(f"{name}.yaml" for name in configs)]
        run([*command, "--", *targets], folder)

    def side(self, name: str, tables: dict[str, Path]) -> float:
        """Seconds from the DAG's start to its table in a copy of the folder; `tables` get the table."""
        with tempfile.TemporaryDirectory(prefix="dvfl-bench-") as copy:
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            spent = seconds(lambda: self.snakemake(Path(copy), ["reduced", name], str(TABLE)))
            tables[name] = shutil.copy(Path(copy) / TABLE, self.folder / f"{name}.csv")
        return spent

    def parts(self) -> Parts:
        """Measured one after the other, in a copy of the folder."""
        with tempfile.TemporaryDirectory(prefix="dvfl-bench-") as copy:
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            files = [word for name in ("reduced", "plain") for word in ("--config", f"{name}.yaml")]
            baseline = self.trials()[1][0]
            trial = cpu(lambda: run([sys.executable, "-m", "dvfl", "trial", str(baseline), *files], Path(copy)))
            inner = json.loads(run([sys.executable, "-c", MEASURE, str(self.folder)], Path(copy)).splitlines()[-1])
            shutil.rmtree(Path(copy) / TABLE.parent)
            dag = cpu(lambda: self.snakemake(Path(copy), ["reduced"], str(TABLE)))
        epochs = self.work().epochs * (inner["views"] + inner["student"])
        return Parts(dag=dag, start=max(0.0, trial - epochs), **inner)

    def work(self) -> Work:
        distilled, on_labels = self.trials()
        settings = plan.run_settings(self.config(), distilled[0])
        views = settings.input.views or settings.train.epochs
        return Work(len(distilled), len(on_labels), settings.train.epochs, views, self.cores)


def run(command: list[str], folder: Path) -> str:
    """What the command writes. UserError where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "DVFL_CONFIG"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment | {"PYTHONPATH": str(PROJECT)}
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise UserError(f"{' '.join(command[:4])} ... failed and said: {said}")
    return done.stdout


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of one call and of the processes that it waits for."""
    begin = cpu_seconds()
    work()
    return cpu_seconds() - begin


MEASURE = "import sys; from dvfl.bench.ablation import measure_epoch; measure_epoch(sys.argv[1])"


def measure_epoch(folder: str, rounds: int = 3) -> None:
    """Prints what clips, teacher and student of the current folder take an epoch, in CPU seconds, as JSON."""
    import torch

    from dvfl.distill.targets import CachedTargets, OnlineTargets
    from dvfl.distill.task import DistillationTask
    from dvfl.models import create_model
    from dvfl.train.checkpoint import Checkpoint
    from dvfl.train.inputs import clip_dataset, labelled_clips, load_run_data
    from dvfl.train.loop import fit, resolve, training_batches
    from dvfl.train.teacher import load_teacher

    ablation = Ablation(Path(folder), cores=1)
    config, trial = ablation.config(), ablation.trials()[0][0]
    settings, data = plan.run_settings(config, trial), load_run_data(config, trial)
    drawn = settings.model_copy(update={"input": settings.input.model_copy(update={"views": None})})
    torch.set_num_threads(settings.train.threads)
    dataset, lone = (clip_dataset(data, each, each.subsets, labelled_clips(data, each)) for each in (settings, drawn))
    train = settings.train.model_copy(update={"epochs": rounds})
    recipe = resolve(train, trial.seed, len(data.classes))
    ask = OnlineTargets(load_teacher(str(ablation.teacher() / "weights.safetensors"), settings, recipe))
    lone.training_view(0, 0)  # warms up
    begin = time.process_time()
    for i in range(len(dataset)):
        dataset.training_view(i, 0)
    together = time.process_time() - begin
    views, teacher = [], []
    logits = torch.zeros(rounds, len(dataset), len(data.classes))
    for epoch in range(rounds):
        begin = time.process_time()
        for i in range(len(lone)):
            lone.training_view(i, epoch)
        views.append(time.process_time() - begin)
        batches = list(training_batches(dataset, recipe, epoch, range(-(-len(dataset) // train.batch_size))))
        begin = time.process_time()
        for batch in batches:
            logits[epoch, batch.positions] = ask(batch.inputs, batch.positions, epoch)
        teacher.append(time.process_time() - begin)
    size = {"num_classes": len(data.classes), "num_frames": settings.input.frames, "img_size": settings.input.img_size}
    student = create_model(settings.network.model, **size, **settings.network.model_overrides)
    task = DistillationTask(student, CachedTargets(logits), settings.distill)
    with tempfile.TemporaryDirectory() as resume:
        begin = time.process_time()
        fit(task, dataset, recipe, Checkpoint(Path(resume)))
        student = (time.process_time() - begin) / rounds
    made = {"views": float(np.median(views)), "together": together}
    print(json.dumps(made | {"teacher": float(np.median(teacher)), "student": student}))


def difference(one: Path, other: Path) -> float:
    """The largest between the numbers of two tables; infinite where they differ in anything else but the runs' ids."""
    from dvfl.report.rows import NUMBERS
    from dvfl.report.tables import read_table

    first, second = (read_table(path).drop(columns="run_ids") for path in (one, other))
    words = [column for column in first if column not in NUMBERS]
    numbers = [frame[list(NUMBERS)].to_numpy(float) for frame in (first, second)]
    if not first[words].equals(second[words]) or (np.isnan(numbers[0]) != np.isnan(numbers[1])).any():
        return np.inf
    return float(np.nanmax(np.abs(numbers[0] - numbers[1]), initial=0.0))


@pair(
    "ablation/motions", what="ablation from the DAG's start to its table, 9 trials and a baseline, 10 epochs, motions",
    slow="every trial with its own teacher passes and decoding", fast="stored targets, views kept", share=0.8,
)  # fmt: skip
def ablation(sizes: Sizes) -> Sides:
    """Both sides end with the same table, compared once they have run: a call takes minutes."""
    study = Ablation.prepare(sizes.threads)
    parts, work, tables = study.parts(), study.work(), {}
    took = ", ".join(f"{name} {value:.3g} s" for name, value in asdict(parts).items())
    return Sides(
        partial(study.side, "plain", tables),
        partial(study.side, "shared", tables),
        deviation=lambda: difference(tables["plain"], tables["shared"]),
        note=f"parts, in CPU time: {took}; by these {work.plain(parts):.3g} s plain and {work.shared(parts):.3g} "
        f"s where what is shared is done once, on {work.cores} cores",
        amount=lambda side: side(),
        ceiling=work.ceiling(parts),
    )
