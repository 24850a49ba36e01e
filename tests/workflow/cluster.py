"""A SLURM cluster of one node on loopback: munge, slurmctld and slurmd, with two GPUs that are none."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = Path("/etc/slurm")  # jobs do not inherit SLURM_CONF
MARK = "# Written by a test of dvfl: a cluster of one node on loopback.\n"
CONF = """
ClusterName=dvfl
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={port}
SlurmdPort={next_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SchedulerParameters=sched_interval=2,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""
GRES = "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [each for each in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(each) is None]
    if missing:
        return f"SLURM is not installed: no {', '.join(missing)}; on Debian: apt-get install slurmctld slurmd munge"
    if os.geteuid() != 0:
        return "slurmd and munge are started by root alone"
    conf = FOLDER / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK):
        return f"{conf}: this machine belongs to a cluster, which is left alone"
    return None


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """The cluster, as long as the block lasts; what it keeps lies in `folder`."""
    host, port = socket.gethostname().split(".")[0], _free_ports()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    written = {"slurm.conf": MARK + CONF.format(host=host, folder=folder, port=port, next_port=port + 1)}
    written |= {"gres.conf": GRES}
    daemons: list[subprocess.Popen] = []
    try:
        for name, text in written.items():
            (FOLDER / name).write_text(text)
        if not Path("/run/munge/munge.socket.2").exists() or _fails("munge", "-n"):
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            daemons.append(_start(folder, "munged", "--foreground", "--force", user="munge"))
            _wait(lambda: not _fails("munge", "-n"), folder)
        daemons.append(_start(folder, "slurmctld", "-D"))
        _wait(lambda: not _fails("scontrol", "ping"), folder)
        daemons.append(_start(folder, "slurmd", "-D"))
        _wait(lambda: set(_said("sinfo", "--noheader", "--format=%T").split()) == {"idle"}, folder)
        yield
    finally:
        if len(daemons) > 1:
            subprocess.run(["scancel", "--user=root"], capture_output=True)
            with suppress(AssertionError):
                _wait(lambda: not _said("squeue", "--noheader"), folder, seconds=40)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for name in written:
            (FOLDER / name).unlink(missing_ok=True)


def _start(folder: Path, *command: str, user: str = "root") -> subprocess.Popen:
    with (folder / f"{command[0]}.out").open("w") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, user=user, group=user
        )


def _free_ports() -> int:
    """The first of two ports that nobody listens on."""
    for port in range(16817, 17817, 2):
        try:
            for each in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode != 0


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _wait(ready, folder: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            said = [
                f"{file}:\n{file.read_text()[-1500:]}"
                for pattern in ("*.out", "*.log")
                for file in folder.glob(pattern)
            ]
            raise AssertionError("the cluster is not as it should be\n" + "\n".join(said))
        time.sleep(0.5)
