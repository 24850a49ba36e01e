"""What is paid before any work begins: the start of a command, and Snakemake's plan of the whole paper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial

from dvfl.bench.pairs import Sides, Sizes, Unavailable, pair, seconds
from dvfl.launch import PROJECT

HELP = "import sys; sys.argv = ['dvfl', '--help']; from dvfl.cli import main; main()"
IMPORTS = "import torch, torchvision, timm, mlflow, optuna, pandas, sklearn, matplotlib, av, fvcore"
EVERYTHING = f"{IMPORTS}; {HELP}"


@pair(
    "start/help", what="start of the program: dvfl --help", slow="importing everything first",
    fast="importing what is needed", limit=0.3, quick=True,
)  # fmt: skip
def start(sizes: Sizes) -> Sides:
    texts = [_output([sys.executable, "-c", code]) for code in (EVERYTHING, HELP)]
    return Sides(
        slow=partial(_output, [sys.executable, "-c", EVERYTHING]),
        fast=partial(_output, [sys.executable, "-c", HELP]),
        deviation=float(texts[0] != texts[1]),
    )


# Training needs PyTorch, scoring does not. MLflow comes while they work.
JOBS = {"train": "import dvfl.train.job", "score": "import dvfl.evaluate.scoring"}


def rule(sizes: Sizes, job: str) -> Sides:
    """What a job imports before it works."""
    commands = [[sys.executable, "-c", "; ".join(code)] for code in ([IMPORTS, JOBS[job]], [JOBS[job]])]
    note = ""
    if job == "train":
        torch, both = (
            min(seconds(partial(_output, [sys.executable, "-c", code])) for _ in range(3))
            for code in ("import torch", "import torch, torchvision")
        )
        note = f"PyTorch alone takes {torch:.3g} s of it, with torchvision, which imports its compiler, {both:.3g} s"
    return Sides(partial(_output, commands[0]), partial(_output, commands[1]), deviation=None, note=note)


for _job in JOBS:
    pair(
        f"start/rule/{_job}", what=f"a rule's fixed cost: what dvfl {_job} imports", slow="importing everything first",
        fast="importing what is needed", limit=3.0,
    )(partial(rule, job=_job))  # fmt: skip


def _output(command: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT, env=environment)
    return done.stdout


def plan_the_paper(unit: str) -> Sides:
    """`snakemake -n` of config/paper.yaml in an empty folder."""

    def amount(work) -> float:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", PLAN, str(PROJECT / "Snakefile"), str(PROJECT / "config/paper.yaml")]
            environment = os.environ | {"PYTHONPATH": str(PROJECT)}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"snakemake -n fails: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout.splitlines()[-1])[unit]

    return Sides(slow=None, fast=lambda: None, deviation=None, amount=amount)


# The plan in a process of its own, and what that process took.
PLAN = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--snakefile", sys.argv[1], "--cores", "1"]
done = subprocess.run([*command, "--configfile", sys.argv[2], "--", "results/tables/all.csv"], capture_output=True)
seconds, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6 * 1024
sys.stderr.write(done.stderr.decode())
print(json.dumps({"s": seconds, "MB": peak}))
sys.exit(done.returncode)
"""

for _unit, _limit in (("s", 60.0), ("MB", 1000.0)):
    pair(
        f"start/plan/{'seconds' if _unit == 's' else 'memory'}", what="snakemake -n of the whole paper", slow="-",
        fast="snakemake -n", limit=_limit, unit=_unit,
    )(lambda sizes, unit=_unit: plan_the_paper(unit))  # fmt: skip
