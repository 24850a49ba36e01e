"""Whether many trainings at once lose nothing on a server that comes, is killed and comes back; and how long they wait.

    python -m tests.benchmark_tracking --backend sqlite --runs 32 --epochs 200
    python -m tests.benchmark_tracking --backend postgresql --runs 32 --epochs 200

Each training is a process of its own and logs what a training logs, an epoch in `--epoch-seconds`. The server (MLflow's
own, on loopback) is down for their first third, killed while they log their second, and back for their last. What its
database holds in the end is compared with what was logged, value by value.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from dvfl.track.tracker import PATIENCE
from tests.ablate import postgres
from tests.track.serving import Server, a_run, arrived, expected, through_trouble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--epoch-seconds", type=float, default=0.2)
    parser.add_argument("--workers", type=int, default=1, help="Processes of the server.")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chdir(folder)
        if options.backend == "sqlite":
            database = f"sqlite:///{folder}/server.db"
        else:
            if why := postgres.why_not():
                parser.error(why)
            os.environ["PGPASSWORD"] = postgres.PASSWORD
            database = stack.enter_context(postgres.postgres())
        server = Server(database, folder / "server", options.workers)
        stack.callback(server.kill)
        found = through_trouble(server, options.runs, options.epochs, options.epoch_seconds)
        logged, there = (Counter(points) for points in (expected(options.runs, options.epochs), arrived(server)))
        finished = server.runs().count
        print(
            f"{options.backend}: {options.runs} runs x {options.epochs} epochs, {logged.total()} values logged; in the "
            f"database {found['at_the_kill']} when it was killed, {found['at_the_end']} when the last training ended, "
            f"{there.total()} in the end: {(logged - there).total()} lost, {(there - logged).total()} too many; "
            f"{sum(finished((a_run(seed).name, 'FINISHED')) for seed in range(options.runs))} of {len(server.runs())} "
            f"runs finished"
        )
        print(
            f"longest wait of a training {found['longest_wait']:.1f} s (bound: {PATIENCE:g} s and a write), "
            f"in the mean {found['mean_wait_of_a_run']:.1f} s a run; {found['training_seconds']:.0f} s until the last "
            f"training ended, {found['seconds']:.0f} s until all was there"
        )
        os.chdir("/")


if __name__ == "__main__":
    main()
