"""What networks cost, what is fast, and how the released loss compares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command()
@with_config
@click.argument("name")
@click.option("--threads", default=1, show_default=True, help="CPU threads of the timed passes.")
@click.option("--larger", is_flag=True, help="At profile.larger_batches instead of profile.batch_sizes.")
def profile(config: Config, name: str, threads: int, larger: bool) -> None:
    """Measure a network: parameters, multiply-adds, latency, memory.

    NAME is a model at the paper's size, or a network of the config's arms, as its file under results/profile is named.
    """
    from dvfl.profile.job import profile_one

    found = profile_one(config, name, threads, larger)
    uncounted = ", ".join(f"{op} ({n} calls)" for op, n in found["uncounted"].items()) or "nothing"
    say(
        f"{name}: {found['params'] / 1e6:.2f} M params, {found['gmacs']:.4g} GMACs ({found['gflops']:.4g} GFLOPs), "
        f"{found['other_gops']:.3g} G other operations; uncounted: {uncounted}"
    )
    for batch in found["batches"]:
        say(
            f"  batch {batch['batch']}: {batch['latency_ms']:.1f} ms (median of {batch['repeats']}), "
            f"{batch['clips_per_second']:.1f} clips/s, peak memory {batch['peak_memory_mb']:.0f} MB"
        )


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every pair; what is done where no NAMES are given, too.")
@click.option("--quick", is_flag=True, help="The pairs that take two minutes together.")
@click.option("--missing", is_flag=True, help="Only pairs that --out has no row of yet, as after a kill.")
@click.option("--threads", default=None, type=int, help="CPU threads of the networks; the usable cores unless given.")
@click.option(
    "--clips", "own_clips", type=click.Path(exists=True, file_okay=False), metavar="FOLDER",
    help="Your clips, FOLDER/<class>/<clip>, for the pairs `loader/own`.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/tables/benchmark"), show_default=True,
    help="Files to write, .csv, .md and .html. Rows of other pairs that they have already stay in them.",
)  # fmt: skip
def bench(
    names: tuple[str, ...],
    everything: bool,
    quick: bool,
    missing: bool,
    threads: int | None,
    own_clips: str | None,
    out: Path,
) -> None:
    """Measure what speed is claimed: each fast way beside the plain one, in turn, once their results agree.

    NAMES are pairs, or beginnings of their names.
    """
    from rich.console import Console

    from dvfl.bench.pairs import Sizes, Unavailable, chosen, measure
    from dvfl.bench.table import as_table, circumstances, notes, read_benchmark, write_benchmark
    from dvfl.profile.machine import usable_cores
    from dvfl.progress import track

    if bool(names) + everything + quick > 1:
        raise click.UsageError("give NAMES, --all or --quick, one of them")
    sizes = Sizes(own_clips=own_clips, threads=threads or usable_cores())
    pairs = chosen(names, quick)
    rows, about, left_out = read_benchmark(out), circumstances(), {}
    todo = [each for each in pairs if not (missing and each.name in rows)]
    for each in track(todo, len(todo), "Pairs measured"):
        try:
            rows[each.name] = measure(each, sizes), about
        except Unavailable as reason:
            left_out[each.name] = str(reason)
        write_benchmark(out, {each.name: rows[each.name] for each in chosen() if each.name in rows}, left_out)
    results = [rows[each.name][0] for each in pairs if each.name in rows and each.name not in left_out]
    Console(width=None if sys.stdout.isatty() else 200).print(as_table(results))
    missed = [result for result in results if result.met is False]
    for note in notes(missed, left_out):
        say(note)
    if missed:
        say("what was tried, with profiles: dvfl/bench/README.md")


@click.command()
@with_config
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of the network.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Timed passes of each point.")
@click.option(
    "--index-clips", type=click.IntRange(100), default=100_000, show_default=True, help="The most clips to index."
)
def growth(config: Config, precision: str, threads: int, repeats: int, index_clips: int) -> None:
    """Measure how time and memory grow with frames, resolution, batch and clips: a table and a figure."""
    from dvfl.bench.growth import Point, circumstances, measure_growth, series
    from dvfl.report.figures import write_figure
    from dvfl.report.growth import build_growth
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.tables import write_table

    base = Point("forward", precision=precision, threads=threads, repeats=repeats)
    rows, problems = measure_growth(series(base, index_clips))
    write_table(build_growth(rows, circumstances()), folder / "growth")
    write_figure("growth", config)
    for problem in problems:
        say(f"not measured: {problem}")


@click.command("released-loss")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
def released_loss(out: Path) -> None:
    """Measure the released loss, its value and its gradient, beside KL's on random logits."""
    from dvfl.distill.released_loss import CLASSES, CLIPS, SEED, STD
    from dvfl.distill.released_loss import released_loss as measure
    from dvfl.files import atomic

    found = measure()
    with atomic(out) as partial:
        found.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    at_10 = found[found["temperature"] == 10].set_index("loss")
    weaker = at_10.at["forward_kl", "gradient"] / at_10.at["released_code", "gradient"]
    kl, released = (at_10.at[loss, "value"] for loss in ("forward_kl", "released_code"))
    say(
        f"{CLIPS} pairs of normal logits (standard deviation {STD:g}, seed {SEED}), {CLASSES} classes, T = 10: "
        f"KL {kl:.2f}, the released loss {released:.1f}, its gradient {weaker:.0f} times weaker"
    )
