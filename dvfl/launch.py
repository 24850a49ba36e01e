"""Between Snakemake and the library: the checked config that jobs read, the machine's cores, and `make results`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from filelock import FileLock, Timeout

from dvfl import paths, steps
from dvfl.config import PROJECT, Config, check_config, digest, merge
from dvfl.config.loading import read_yaml, with_texts
from dvfl.errors import UserError, is_users_to_mend
from dvfl.files import atomic, in_words
from dvfl.resources import Resources, usable_cores
from dvfl.train.devices import visible_gpus


@contextmanager
def own_lines() -> Iterator[None]:
    """Exits with the lines of a user's mistake alone: Snakemake would bury them in places of the code."""
    try:
        yield
    except Exception as error:
        if not is_users_to_mend(error):
            raise
        print("\n".join(f"dvfl: {line}" for line in in_words(error).splitlines()), file=sys.stderr)
        sys.exit(1)


def config_for_jobs(raw: Mapping[str, Any], workflow: Any) -> Config:
    """The checked config of plain values, stored where the `dvfl` commands of the jobs find it.

    The file's name is its content's hash, so that a dry run with another config never changes what a running job
    reads. The commands find the file, and are found themselves, through the environment that jobs inherit. A job that
    parses the Snakefile again, as on a cluster's node, takes the config that it was submitted with, whatever has become
    of the user's files meanwhile. Exits where the config or the data are wrong, with a line for each mistake.
    """
    submitted = None if workflow.is_main_process else os.environ.get("DVFL_CONFIG")
    if submitted is not None:
        raw = read_yaml(submitted)
    else:
        # What jobs of an earlier Snakemake make after this is not made anew.
        os.environ["DVFL_BEGAN"] = str(time.time())
        raw = merge(raw, _typed(workflow.config_settings.config))
        with own_lines():  # Snakemake itself lets a key stand twice in a file
            for file in workflow.configfiles:
                if Path(file).suffix in (".yaml", ".yml"):
                    read_yaml(file)
    with own_lines():
        config = check_config(raw)
        if submitted is None:  # a job's node may not see the user's files, and would look at all of them
            steps.check_before_work(config)
        file = paths.RESULTS / f".config/{digest(raw)}.yaml"
        if not file.exists():
            with atomic(file) as partial:
                partial.write_text(yaml.safe_dump(dict(raw), sort_keys=False))
    os.environ["DVFL_CONFIG"] = str(file)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return config


def _typed(value: Any) -> Any:
    """A value of `--config KEY=VALUE` as YAML has it: in its lists and mappings Snakemake leaves everything text."""
    plain = re.compile(r"null|true|false|-?(0|[1-9]\d*)(\.\d+)?")
    return with_texts(value, lambda text: yaml.safe_load(text) if plain.fullmatch(text) else text)


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
        # A data set that fails, or whose files come late, does not stop the others.
        snakemake += ["--rerun-incomplete", "--keep-going", "--rerun-triggers", *TRIGGERS]
        code = _run([*snakemake, "--", *targets])
    if code == 0 and Path("results/tables/accuracy.csv").exists():
        _run([sys.executable, "-m", "dvfl", "summary", *(word for file in files for word in ("--config", str(file)))])
    return code


def write_report(files: Sequence[Path], out: Path) -> int:
    """Snakemake's report of what there is, a page of its own; its exit code. May run inside a Snakemake job.

    What was measured on demand is in it, too.
    """
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--nolock"]
    snakemake += ["--cores", "1", *(["--configfile", *map(str, files)] if files else [])]
    others = [table for table in ("results/tables/benchmark.csv", "results/tables/growth.csv") if Path(table).exists()]
    return _run([*snakemake, "--report", str(out), "--", "all", *others])


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


def on_cluster(workflow: Any) -> bool:
    """Whether jobs run elsewhere. Snakemake names the executor only after the Snakefile was read; --jobs tells."""
    return workflow.remote_exec or workflow.resource_settings.nodes is not None


def resources_of(workflow: Any, config: Config) -> Resources:
    """What the rules ask for, here or on a cluster."""
    return Resources(config, None if on_cluster(workflow) else workflow.cores)


def restrict_to_machine(workflow: Any) -> None:
    """Lets no more run at once here than the machine has cores and GPUs, whatever --cores says.

    Each rule claims `machine_cores`, and those that train `gpu`; on a cluster the scheduler sees to it instead.
    """
    if on_cluster(workflow):
        return
    machine = {"machine_cores": usable_cores(os.cpu_count())}
    if shutil.which("nvidia-smi"):  # elsewhere jobs wait for each other's GPUs themselves
        machine["gpu"] = len(visible_gpus())
    for name, count in machine.items():
        if name not in workflow.global_resources:
            workflow.register_resource(name, count)


def check_partitions(workflow: Any) -> None:
    """SLURM partitions that the profile names, looked up before anything is submitted. Exits with one line."""
    if not (workflow.is_main_process and on_cluster(workflow) and shutil.which("sinfo")):
        return
    asked = workflow.resource_settings
    resources = [asked.default_resources, *asked.overwrite_resources.values()]
    with own_lines():
        named = {part for each in resources for part in _names(each.get("slurm_partition"))}
        said = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True)
        known = sorted(set(said.stdout.split()))
        if said.returncode or not known:
            raise UserError(
                f"SLURM does not answer: {said.stderr.strip() or 'sinfo names no partition'}; see to it first"
            )
        if wrong := sorted(named - set(known)):
            raise UserError(
                f"slurm_partition: this cluster has no partition {', '.join(map(repr, wrong))}; it has "
                f"{', '.join(known)}; name one of them in the profile's config.yaml"
            )


def _names(partition: Any) -> list[str]:
    """Partitions that a profile's value names, by comma; none where it names none, or is an expression."""
    text = str(getattr(partition, "raw", None) or "").strip("'\"")
    return text.split(",") if re.fullmatch(r"[\w.,-]+", text) else []


def any_of(names: Iterable[str]) -> str:
    """Regular expression for a wildcard that is one of these names and no other."""
    return "|".join(re.escape(name) for name in names) or r"(?!)"
