"""Between Snakemake and the library: the checked config that jobs read, the machine's cores, and `make results`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from filelock import FileLock, Timeout

from dvfl import plan, steps
from dvfl.config import PROJECT, Config, check_config, digest
from dvfl.errors import UserError
from dvfl.files import atomic
from dvfl.train.devices import visible_gpus


def config_for_jobs(raw: Mapping[str, Any]) -> Config:
    """The checked config of plain values, stored where the `dvfl` commands of the jobs find it.

    The file's name is its content's hash, so that a dry run with another config never changes what a running job
    reads. The commands find the file, and are found themselves, through the environment that jobs inherit. Exits where
    the config or the data are wrong, with a line for each mistake.
    """
    try:
        config = check_config(raw)
        steps.check_before_work(config)
    except UserError as error:  # its own lines alone: Snakemake would bury them in places of the code
        print("\n".join(f"dvfl: {line}" for line in str(error).splitlines()), file=sys.stderr)
        sys.exit(1)
    file = plan.RESULTS / f".config/{digest(raw)}.yaml"
    if not file.exists():
        with atomic(file) as partial:
            partial.write_text(yaml.safe_dump(dict(raw), sort_keys=False))
    os.environ["DVFL_CONFIG"] = str(file)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return config


def usable_cores(asked: int | None) -> int:
    """Cores for one job: what was asked for, but no more than this machine lets us use."""
    return max(1, min(asked or 1, len(psutil.Process().cpu_affinity() or [1])))


def run_pipeline(cores: int | None, files: Sequence[Path], targets: Sequence[str]) -> int:
    """Runs Snakemake here and prints the summary; clears what a killed Snakemake left, if no other is alive.

    Returns Snakemake's exit code. Raises UserError if another run of this folder is alive.
    """
    lock = FileLock(Path(".snakemake/dvfl.lock"))
    Path(".snakemake").mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another `make results` runs in this folder; wait for it to end, or end it") from None
    with lock:
        other = _snakemake_here()
        if other is not None:
            raise UserError(f"Snakemake already runs in this folder (process {other}); wait for it to end, or end it")
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile")]
        snakemake += ["--cores", str(cores or usable_cores(os.cpu_count()))]
        snakemake += ["--configfile", *map(str, files)] if files else []
        if any(Path(".snakemake/locks").glob("*")):
            subprocess.run([*snakemake, "--unlock"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        code = _run([*snakemake, "--rerun-incomplete", "--rerun-triggers", *TRIGGERS, "--", *targets])
    if code == 0 and Path("results/tables/accuracy.csv").exists():
        _run([sys.executable, "-m", "dvfl", "summary", *(word for file in files for word in ("--config", str(file)))])
    return code


def write_report(files: Sequence[Path], out: Path) -> int:
    """Snakemake's report of what there is, a page of its own; its exit code. May run inside a Snakemake job."""
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--nolock"]
    snakemake += ["--cores", "1", *(["--configfile", *map(str, files)] if files else [])]
    return _run([*snakemake, "--report", str(out)])


TRIGGERS = ("mtime", "params", "input", "code")  # not the software environment: `make` keeps that


def _run(command: list[str]) -> int:
    """Runs a command to its end; Ctrl-C reaches it, and we wait for what it says."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _snakemake_here() -> int | None:
    """Process of a Snakemake that works in this folder."""
    here = str(Path.cwd())
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if not any(Path(word).name == "snakemake" for word in words[:3]):
            continue
        try:
            if process.cwd() == here:
                return process.info["pid"]
        except psutil.Error:
            continue
    return None


def restrict_to_machine(workflow: Any) -> None:
    """Lets no more run at once here than the machine has cores and GPUs, whatever --cores says.

    Each rule claims `machine_cores`, and those that train `gpu`; on a cluster the scheduler sees to it instead.
    """
    if not workflow.local_exec:
        return
    machine = {"machine_cores": usable_cores(os.cpu_count())}
    if shutil.which("nvidia-smi"):  # elsewhere jobs wait for each other's GPUs themselves
        machine["gpu"] = len(visible_gpus())
    for name, count in machine.items():
        if name not in workflow.global_resources:
            workflow.register_resource(name, count)
