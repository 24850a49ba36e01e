"""The commands: each parses, calls and prints. They are listed in the order of the pipeline.

Imports stand inside the commands, so that `dvfl --help` does not wait for PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dvfl.config import Config
    from dvfl.plan import Run


class InPipelineOrder(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InPipelineOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="dvfl")
def cli() -> None:
    """Distil video recognisers, and say how sure the result is.

    The whole pipeline is `snakemake --cores 8 results/tables/all.csv`; each command below does one of its steps by
    hand. RUN is a run's directory, such as results/runs/motions/split1/as_described/student/seed0.
    """


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config and hands over the checked config."""

    @click.option(
        "--config",
        "files",
        multiple=True,
        envvar="DVFL_CONFIG",
        type=click.Path(path_type=Path),
        help="Config file over config/config.yaml; may be given several times, later ones win.",
    )
    @wraps(command)
    def wrapped(files: tuple[Path, ...], **arguments: Any) -> Any:
        from dvfl.files import NotMadeYet

        try:
            return command(load(files), **arguments)
        except NotMadeYet as error:
            error.configs = files
            raise

    return wrapped


def load(files: tuple[Path, ...]) -> Config:
    from dvfl.config import DEFAULT_CONFIG, load_config

    return load_config(DEFAULT_CONFIG, *files)


def say(text: str) -> None:
    click.echo(text, err=True)


# ----------------------------------------------------------------------------------------------------------- settings


@cli.command()
@with_config
@click.option("--hash", "short", is_flag=True, help="Print the hash alone.")
def config(config: Config, short: bool) -> None:
    """Check the config and print it whole, defaults included."""
    import yaml

    from dvfl.config import digest

    values = config.model_dump(mode="json")
    click.echo(digest(values) if short else yaml.safe_dump(values, sort_keys=False, width=120).rstrip())


@cli.command()
@with_config
@click.option("--markdown", is_flag=True, help="As a Markdown table.")
def protocol(config: Config, markdown: bool) -> None:
    """What is described and what the released code does, side by side, with the finding behind each difference."""
    from dvfl.report.protocol import as_markdown, as_table, departures

    if markdown:
        click.echo(as_markdown())
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 100).print(as_table())
    say(f"This config: protocol {config.protocol}")
    for line in departures(config):
        say(f"  {line}")


@cli.command()
@with_config
def runs(config: Config) -> None:
    """List the directories of all runs that the config asks for."""
    from dvfl.plan import all_runs

    for run in all_runs(config):
        click.echo(str(run))


@cli.command()
@with_config
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write when all is ready.")
def tracking(config: Config, out: Path) -> None:
    """Open the MLflow store, its experiments and the studies' parent runs, before anything runs in parallel."""
    from dvfl.files import write_json
    from dvfl.plan import studies_to_track
    from dvfl.track import prepare

    write_json(out, prepare(config.tracking, studies_to_track(config)))


# --------------------------------------------------------------------------------------------------------------- data


@cli.command("await")
@with_config
@click.argument("dataset")
@click.option("--hours", type=float, default=None, help="How long to wait; the data set's wait_hours unless given.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write when all is there.")
def await_(config: Config, dataset: str, hours: float | None, out: Path | None) -> None:
    """Wait for files that need an account, once said which, from where, and where to put them."""
    from dvfl.data.acquire import await_files
    from dvfl.errors import UserError
    from dvfl.files import write_json

    definition = definition_of(config, dataset)
    if definition.kind != "archives":
        raise UserError(f"{dataset}: nothing to wait for, none of its files needs an account")
    await_files(dataset, definition, hours)
    if out:
        write_json(out, {"dataset": dataset})


@cli.command()
@with_config
@click.argument("dataset")
@click.option("--shard", type=int, default=None, help="Fetch this share of a large data set alone, from 0.")
@click.option("--released", is_flag=True, help="Fetch the lists alone that split `released` follows.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write when all is there.")
def fetch(config: Config, dataset: str, shard: int | None, released: bool, workers: int, out: Path | None) -> None:
    """Get a data set's clips: fetch, verify and extract them; the embedded one is rendered."""
    from dvfl.data.acquire import acquire, acquire_released
    from dvfl.data.motions import render_motions
    from dvfl.errors import UserError
    from dvfl.files import write_json
    from dvfl.steps import check_data

    definition = definition_of(config, dataset)
    if definition.kind == "folder":
        raise UserError(f"{dataset}: nothing to fetch, its clips are your own; go on with `dvfl index {dataset}`")
    check_data(config, [dataset])
    if definition.kind == "motions":
        render_motions(definition.motions, definition.root, workers)
        got = {"dataset": dataset, "root": str(definition.root)}
    else:
        got = acquire_released(config, dataset) if released else acquire(config, dataset, shard)
    if out:
        write_json(out, got)


@cli.command("fetch-weights")
@with_config
@click.argument("name")
def fetch_weights(config: Config, name: str) -> None:
    """Fetch and verify weights to start from, by their name in weights_definitions."""
    from dvfl.data.weights import fetch_weights as fetch_named

    if name not in config.weights_definitions:
        raise click.BadParameter(f"{name!r} is not among weights_definitions: {', '.join(config.weights_definitions)}")
    say(f"{name}: {fetch_named(config, name)}")


@cli.command()
@with_config
@click.argument("dataset")
@click.option("--shard", type=int, default=None, help="Read this share of the clips alone, from 0, of index_shards.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), help="With --shard: file to write when it is read.")
def index(config: Config, dataset: str, shard: int | None, workers: int, out: Path | None) -> None:
    """Open and measure every clip of a data set: index.parquet. Clips that are unchanged are not opened again."""
    from dvfl import plan
    from dvfl.data.index import build_index, clips_root, index_shard, write_index
    from dvfl.files import write_json

    definition = definition_of(config, dataset)
    root, kept = clips_root(definition), plan.readings_path(dataset)
    if shard is not None:
        count = index_shard(root, definition, shard, workers, kept)
        say(f"{dataset}, shard {shard} of {definition.index_shards}: {count} clips read")
        if out:
            write_json(out, {"dataset": dataset, "shard": shard, "shards": definition.index_shards})
        return
    frame = build_index(root, definition, workers, kept)
    write_index(frame, plan.index_path(dataset))
    counts = frame["status"].value_counts()
    say(f"{dataset}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    for clip in frame[frame["status"] != "ok"].head(10).itertuples():
        say(f"  left out: {clip.clip_id}: {clip.reason}")


@cli.command()
@with_config
@click.argument("dataset")
@click.argument("name")
def split(config: Config, dataset: str, name: str) -> None:
    """Draw or read a split of a data set: which clips train, validate, test."""
    from dvfl import plan
    from dvfl.data.index import read_index
    from dvfl.data.splits import make_split, mismatches, published_list, write_split
    from dvfl.files import required
    from dvfl.steps import lacking_labels

    definition = definition_of(config, dataset)
    clips = read_index(required(plan.index_path(dataset)))
    listed = published_list(definition, name)
    if listed is not None:  # before the split, since they may be why it cannot be made
        differing = mismatches(clips, listed)
        write_split(differing, plan.mismatch_path(dataset, name))
        if listed["mislabelled"].any():
            count = listed["mislabelled"].sum()
            say(f"  {count} clips have another number in the list than their class; their folder's class is used")
        for problem, count in differing["problem"].value_counts().items():
            say(f"  {count} clips {problem}: named in {plan.mismatch_path(dataset, name)}")
    frame = make_split(clips, definition, name)
    say(f"{dataset} {name}: " + ", ".join(f"{n} {subset}" for subset, n in frame["subset"].value_counts().items()))
    write_split(frame, plan.split_path(dataset, name))
    for line in lacking_labels(config, dataset, name, clips, frame):
        say(f"  will fail in training: {line}")


@cli.command()
@with_config
@click.argument("dataset", required=False)
@click.option("--store", help="Fill this store alone, such as 256px_q90; all that the runs read unless given.")
@click.option("--shard", type=int, default=None, help="Store this share of the clips alone, from 0.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
def frames(config: Config, dataset: str | None, store: str | None, shard: int | None, workers: int) -> None:
    """Decode each clip once and keep its frames, where the config has an input.frame_store.

    Says first what it will cost on disk and gain in clips/s, and does not start if the disk cannot hold it.
    """
    from dvfl import plan
    from dvfl.data.frame_packing import write_store
    from dvfl.data.index import clips_root, read_index
    from dvfl.files import required, write_json

    for each in plan.used_datasets(config) if dataset is None else [dataset]:
        definition, stores = definition_of(config, each), plan.frame_stores(config, each)
        if store is not None and store not in stores:
            known = ", ".join(stores) or "none: input.frame_store is null"
            raise click.BadParameter(f"no run on {each} reads the store {store!r}; there are: {known}")
        if not stores:
            say(f"{each}: nothing to store, input.frame_store is null")
        for name in stores if store is None else [store]:
            index = read_index(required(plan.index_path(each)))
            written = plan.frames_written(each, stores[name])
            for number in range(len(written)) if shard is None else [shard]:
                if number >= len(written):
                    raise click.BadParameter(f"{name} is written in {len(written)} shards, from 0; not {number}")
                done = write_store(
                    written[number].parent,
                    index,
                    clips_root(definition),
                    stores[name],
                    number,
                    workers,
                    say=lambda text, place=f"{each} {name}": say(f"{place}: {text}"),
                )
                write_json(written[number], done)


@cli.command()
@with_config
@click.argument("dataset")
@click.option("--workers", default=1, show_default=True, help="Processes.")
def fingerprint(config: Config, dataset: str, workers: int) -> None:
    """Hash the pictures of every clip of a data set, so that copies are known: fingerprints.parquet."""
    from dvfl.audit.job import fingerprint_dataset

    definition_of(config, dataset)
    say(f"{dataset}: pictures of {fingerprint_dataset(config, dataset, workers)} clips hashed")


@cli.command()
@with_config
@click.argument("dataset", required=False)
@click.argument("name", required=False, metavar="[SPLIT]")
@click.option(
    "--lists",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Audit the published lists in (or under) this folder instead; no clips are needed.",
)
@click.option("--group", help="With --lists: pattern of a clip's source, as in the config; else told by the names.")
def audit(config: Config, dataset: str | None, name: str | None, folders: tuple[Path, ...], group: str | None) -> None:
    """What a split holds, lacks, and leaks from train into test: audit/SPLIT.csv. All, where none is named.

    To check published lists without their clips: dvfl audit --lists FOLDER
    """
    from dvfl.audit.findings import as_text
    from dvfl.audit.job import audit_lists, audit_split

    if folders:
        for folder, split, found in audit_lists(folders, group):
            click.echo(f"{folder}, {split}\n{as_text(found)}\n")
        return
    for each in config.datasets if dataset is None else [dataset]:
        for split in definition_of(config, each).splits if name is None else [name]:
            click.echo(f"{each}, {split}\n{as_text(audit_split(config, each, split))}\n")


def definition_of(config: Config, dataset: str) -> Any:
    from dvfl.plan import used_datasets
    from dvfl.steps import unknown_dataset

    if dataset not in used_datasets(config):
        raise click.BadParameter(unknown_dataset(config, dataset))
    return config.dataset_definitions[dataset]


# --------------------------------------------------------------------------------------------------- train, test, score


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds RUN and hands over the run that it names."""

    @click.argument("run", metavar="RUN")
    @wraps(command)
    def wrapped(config: Config, run: str, **arguments: Any) -> Any:
        from dvfl.plan import parse_run

        return command(config, parse_run(config, run), **arguments)

    return wrapped


wait_option = click.option(
    "--wait", is_flag=True, help="Wait where another process works on this run, instead of stopping."
)


@cli.command()
@with_config
@click.argument("run", required=False)
@click.option(
    "--resume",
    "folder",
    type=click.Path(path_type=Path),
    help="Go on with the stopped training in this folder (RUN.resume), or say which values changed since.",
)
@wait_option
def train(config: Config, run: str | None, folder: Path | None, wait: bool) -> None:
    """Train or distil a run; goes on where a killed one was, and starts afresh where settings or inputs changed.

    On SIGTERM it saves where it is, within the epoch, and exits with 75.
    """
    from dvfl.plan import parse_run
    from dvfl.train.job import train_run
    from dvfl.train.resume import run_directory

    if run is None and folder is None:
        raise click.UsageError("name the RUN, or the folder to --resume")
    named = parse_run(config, run_directory(folder) if run is None else run)
    train_run(config, named, wait, folder)


@cli.command()
@with_config
@click.argument("what", metavar="RUN|STORE")
@click.option("--verify", "count", type=click.IntRange(1), help="Ask anew for this many of those that are there.")
@wait_option
def targets(config: Config, what: str, count: int | None, wait: bool) -> None:
    """Ask a teacher once for its logits on all that a distillation will show, and keep them.

    Of RUN, a distilled run, and of all that have its teacher and inputs; or of a STORE that runs of the config read,
    such as results/targets/motions/0123456789abcdef. Says first what they take and from how many runs on they pay.
    """
    from dvfl.plan import parse_targets
    from dvfl.train.targets import verify_targets, write_targets

    run = parse_targets(config, what)
    if count is None:
        write_targets(config, run, wait)
    else:
        say(verify_targets(config, run, count))


@cli.command()
@with_config
@run_argument
def test(config: Config, run: Run) -> None:
    """Predict every test clip of a trained run: predictions.parquet."""
    from dvfl.evaluate.job import test_run

    test_run(config, run)


@cli.command()
@with_config
@run_argument
def score(config: Config, run: Run) -> None:
    """Score a run's predictions: scores.json, every metric with its interval."""
    from dvfl.evaluate.job import score_run

    scores = score_run(config, run)
    top1 = scores["metrics"]["top1"]
    say(
        f"{run.name}: top-1 {top1['value']:.1%} [{top1['ci_low']:.1%}, {top1['ci_high']:.1%}], "
        f"{scores['n_clips']} clips"
    )


@cli.command("motion-check")
@with_config
@run_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
def motion_check(config: Config, run: Run, out: Path) -> None:
    """Is the class in the motion? Test a run on one repeated frame, on shuffled frames, and backwards."""
    from dvfl.evaluate.job import check_motion

    check_motion(config, run, out)


# ------------------------------------------------------------------------------------------------------------- studies


@cli.command()
@with_config
@run_argument
@wait_option
def trial(config: Config, run: Run, wait: bool) -> None:
    """Train, predict and score one trial of a study, and record it with Optuna."""
    from dvfl.ablate.job import run_trial

    value = run_trial(config, run, wait)
    say(f"{run.study} {run.trial} {run.arm} seed {run.seed}: top-1 {value:.1%}")


@cli.command()
@with_config
@click.argument("dataset")
@click.argument("study")
@click.option("--worker", default=0, show_default=True, help="Number of this worker; each runs once at a time.")
@click.option("--forget", is_flag=True, help="Delete the study's trials from the storage instead; trained runs stay.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write when no trial is left.")
@wait_option
def tune(config: Config, dataset: str, study: str, worker: int, forget: bool, out: Path | None, wait: bool) -> None:
    """Run trials of a study that searches a space, until it has all; as many workers as you like do so at once.

    A worker that was killed goes on with its trial when it is started again.
    """
    from dvfl.files import write_json

    definition_of(config, dataset)
    if study not in config.ablation.tune:
        raise click.BadParameter(f"{study!r} is not among ablation.tune: {', '.join(config.ablation.tune) or 'none'}")
    if forget:
        from dvfl.ablate.tune import forget as forget_study

        forget_study(config, dataset, study)
        say(f"{dataset} {study}: forgotten")
        return
    from dvfl.ablate.job import run_worker

    answered = run_worker(config, dataset, study, worker, wait)
    say(f"{dataset} {study}: worker {worker} answered {answered} trials, and none is left")
    if out:
        write_json(out, {"dataset": dataset, "study": study, "worker": worker, "answered": answered})


@cli.command()
@with_config
@click.argument("dataset")
@click.argument("study")
def choose(config: Config, dataset: str, study: str) -> None:
    """Write what a study chooses on the validation subset: choice.json; of one that searches, also trials.csv."""
    from dvfl import plan
    from dvfl.ablate.study import choose as choose_values
    from dvfl.ablate.tune import finish
    from dvfl.files import write_json

    if study in config.ablation.tune:
        choice = finish(config, dataset, study)
    else:
        choice = choose_values(config, dataset, study)
        write_json(plan.study_directory(dataset, study) / "choice.json", choice)
    for each in choice.get("best", [choice]):
        say(f"{dataset} {study}: chose {each['trial']}, validation top-1 {each['value']:.1%}")


@cli.command("tune-figure")
@with_config
@click.argument("dataset")
@click.argument("study")
@click.argument("picture")
def tune_figure(config: Config, dataset: str, study: str, picture: str) -> None:
    """Draw one of Optuna's pictures of a finished study that searched a space."""
    from dvfl.report.figures.tuning import write_picture

    write_picture(config, dataset, study, picture)


# --------------------------------------------------------------------------------------------- efficiency, tables, use


@cli.command()
@with_config
@click.argument("model")
@click.option("--threads", default=1, show_default=True, help="CPU threads of the timed passes.")
@click.option("--larger", is_flag=True, help="At profile.larger_batches instead of profile.batch_sizes.")
def profile(config: Config, model: str, threads: int, larger: bool) -> None:
    """Measure a model: parameters, multiply-adds, latency, memory."""
    from dvfl.profile.job import profile_one

    found = profile_one(config, model, threads, larger)
    uncounted = ", ".join(f"{op} ({n} calls)" for op, n in found["uncounted"].items()) or "nothing"
    say(
        f"{model}: {found['params'] / 1e6:.2f} M params, {found['gmacs']:.4g} GMACs ({found['gflops']:.4g} GFLOPs), "
        f"{found['other_gops']:.3g} G other operations; uncounted: {uncounted}"
    )
    for batch in found["batches"]:
        say(
            f"  batch {batch['batch']}: {batch['latency_ms']:.1f} ms (median of {batch['repeats']}), "
            f"{batch['clips_per_second']:.1f} clips/s, peak memory {batch['peak_memory_mb']:.0f} MB"
        )


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every pair; what is done where no NAMES are given, too.")
@click.option("--quick", is_flag=True, help="The pairs that take two minutes together.")
@click.option("--threads", default=None, type=int, help="CPU threads of the networks; the usable cores unless given.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/tables/benchmark"), show_default=True,
    help="Files to write, .csv and .md.",
)  # fmt: skip
def bench(names: tuple[str, ...], everything: bool, quick: bool, threads: int | None, out: Path) -> None:
    """Measure what speed is claimed: each fast way beside the plain one, in turn, once their results agree.

    NAMES are pairs, or beginnings of their names.
    """
    from rich.console import Console

    from dvfl.bench.pairs import Sizes, Unavailable, chosen, measure
    from dvfl.bench.table import as_table, circumstances, write_benchmark
    from dvfl.profile.machine import usable_cores
    from dvfl.progress import track

    if bool(names) + everything + quick > 1:
        raise click.UsageError("give NAMES, --all or --quick, one of them")
    sizes = Sizes(threads=threads or usable_cores())
    pairs = chosen(names, quick)
    results, left_out = [], {}
    for each in track(pairs, len(pairs), "Pairs measured"):
        try:
            results.append(measure(each, sizes))
        except Unavailable as reason:
            left_out[each.name] = str(reason)
        write_benchmark(out, results, left_out, circumstances())
    Console(width=None if sys.stdout.isatty() else 200).print(as_table(results))
    for name, reason in left_out.items():
        say(f"{name}: not measured, {reason}")


@cli.command("released-loss")
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


@cli.command("protocol-effects")
@with_config
def protocol_effects(config: Config) -> None:
    """Write what each difference between the protocols does, alone: table, figure, and a paragraph of words."""
    from dvfl.files import atomic
    from dvfl.report.figures import write_figure
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.protocol_effects import build_protocol_effects, in_words
    from dvfl.report.tables import write_table

    table = build_protocol_effects(config)
    write_table(table, folder / "protocol_effects")
    write_figure("protocol_effects", config)
    text = in_words(table)
    with atomic(folder / "protocol_effects.txt") as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    click.echo(text, nl=False)


@cli.command()
@with_config
def tables(config: Config) -> None:
    """Write all tables, each as CSV, Markdown, LaTeX and a page of HTML, and their union all.csv."""
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.tables import TABLES, write_all, write_table
    from dvfl.steps import tables_made
    from dvfl.track import deliver_pending

    deliver_pending(config.tracking)
    for name, build in TABLES.items():
        write_table(build(config), folder / name)
    write_all([*(folder / f"{name}.csv" for name in TABLES), *tables_made(config)])


@cli.command()
@with_config
def figures(config: Config) -> None:
    """Draw all figures as PDF and PNG, with the data behind each."""
    from dvfl.report.figures import FIGURES, write_figure

    for name in FIGURES:
        write_figure(name, config)


@cli.command()
@with_config
def summary(config: Config) -> None:
    """Print what came out, in a few lines."""
    from rich.console import Console

    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.summary import summary as summarise
    from dvfl.report.tables import read_table
    from dvfl.train.provenance import code_version

    tables = {name: read_table(folder / f"{name}.csv") for name in ("accuracy", "efficiency")}
    width = None if sys.stdout.isatty() else 110
    Console(width=width).print(summarise(config, tables, code_version()[0]))


@cli.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--row", type=int, required=True, help="Which row, counted from 1; the header does not count.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for a program to read.")
def trace(table: Path, row: int, as_json: bool) -> None:
    """Where does this number come from? A row of TABLE walked back to its runs, commits, settings and clips."""
    import json

    from rich.console import Console

    from dvfl.provenance.trace import as_tree, trace_row

    traced = trace_row(table, row)
    if as_json:
        click.echo(json.dumps(traced, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(as_tree(traced))


@cli.command()
@with_config
@click.argument("results", default="results", type=click.Path(path_type=Path))
@click.option("--clips", is_flag=True, help="Hash every clip again, not a sample of each data set alone.")
def verify(config: Config, results: Path, clips: bool) -> None:
    """Do the files under RESULTS still match? Hash inputs, score predictions and build tables anew, and compare.

    Writes nothing. Ends with exit code 1 where anything does not match. Give the --config that made the results.
    """
    from dvfl.provenance.verify import summary, verify_results

    checks = list(verify_results(config, results, clips))
    for check in checks:
        if check.said:
            click.echo(f"{'not checked: ' if check.matches is None else ''}{check.what}: {check.said}")
    click.echo(summary(checks))
    sys.exit(any(check.matches is False for check in checks))


@cli.command()
@with_config
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--weights", is_flag=True, help="With the weights of every run; else only their hashes.")
def pack(config: Config, out: Path, weights: bool) -> None:
    """Pack a finished result for publication: OUT.zip, an RO-Crate. Give the --config that made the results.

    Tables, figures, config, lock file, splits, and of every run its record, predictions and scores; no clips.
    """
    from dvfl.provenance.crate import pack as pack_results

    runs = pack_results(config, out, weights)
    say(f"{out}: {len(runs)} runs, {out.stat().st_size / 1e6:.1f} MB")
    if any(run.about["dirty"] for run in runs):
        say("  some runs were made by an uncommitted version of the code: `dvfl verify` names it")


@cli.command()
@click.option(
    "--config", "files", multiple=True, envvar="DVFL_CONFIG", type=click.Path(path_type=Path), help="Config file."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HTML file to write.")
def report(files: tuple[Path, ...], out: Path) -> None:
    """Put all tables and figures, with their captions, on one HTML page."""
    from dvfl.launch import write_report

    sys.exit(write_report(files, out))


@cli.command()
@with_config
@click.option("--port", default=5000, show_default=True, help="Port on 127.0.0.1.")
def ui(config: Config, port: int) -> None:
    """Open the MLflow UI over this project's runs, on 127.0.0.1."""
    import os

    from dvfl.track import deliver_pending, ui_command, ui_environment

    command = ui_command(config.tracking, port)
    deliver_pending(config.tracking)
    # Its own first page is about language models, and shows no training.
    say(f"MLflow at http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (Ctrl-C ends it)")
    # In place of this process: a signal to it reaches MLflow, which ends its own processes.
    os.execve(command[0], command, ui_environment(config.tracking))


@cli.command()
@click.argument("clips", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--run", "directory", required=True, type=click.Path(path_type=Path), help="Directory of a trained run.")
@click.option("--top", default=5, show_default=True, help="Classes to print.")
@click.option("--plugin", "plugins", multiple=True, help="Module or .py file that registers the run's model.")
def predict(clips: tuple[Path, ...], directory: Path, top: int, plugins: tuple[str, ...]) -> None:
    """What is happening in this clip? The most probable classes of CLIPS, by a trained run."""
    from dvfl.evaluate.job import predict_clip
    from dvfl.models.plugins import import_plugin

    for plugin in plugins:
        import_plugin(plugin)
    for clip in clips:
        for class_name, probability in predict_clip(clip, directory, top):
            click.echo(
                f"{clip}\t{probability:6.1%}\t{class_name}" if len(clips) > 1 else f"{probability:6.1%}  {class_name}"
            )


@cli.command()
@with_config
@click.option("--run", "directory", required=True, type=click.Path(path_type=Path), help="Directory of a trained run.")
@click.option(
    "--format", "format_", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="Of the file."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    default="float32",
    show_default=True,
    help="What the file computes in.",
)
def export(config: Config, directory: Path, format_: str, precision: Any) -> None:
    """Write a run's network for ONNX Runtime and OpenVINO: RUN/export/PRECISION.onnx, checked on the run's clips."""
    from dvfl.deploy.check import Agreement
    from dvfl.deploy.job import export_run
    from dvfl.plan import parse_run

    report = export_run(config, parse_run(config, directory), precision)
    click.echo(report["file"])
    say(f"{report['bytes'] / 1e6:.1f} MB, checked on {report['compared_on']} clips")
    for runtime, found in report["agreement"].items():
        say(f"  {runtime}: {Agreement(**found)}")
    if validation := report.get("validation"):
        top1 = ", ".join(f"{name} {value:.1%}" for name, value in validation["top1"].items())
        seen = ", which the run trained on" if validation["trained_on"] else ""
        say(f"  top-1 on {validation['clips']} validation clips{seen}: {top1}")


@cli.command()
@click.option(
    "--config", "files", multiple=True, type=click.Path(path_type=Path), help="Config file, as for Snakemake."
)
@click.option("--cores", type=int, default=None, help="Cores to use; all of them unless given.")
@click.argument("targets", nargs=-1)
def results(files: tuple[Path, ...], cores: int | None, targets: tuple[str, ...]) -> None:
    """What `make results` does: clear what a killed run left behind, then run the pipeline and print the summary."""
    from dvfl.launch import run_pipeline
    from dvfl.steps import check_before_work, check_targets

    config = load(files)
    check_targets(config, targets)
    check_before_work(config)
    sys.exit(run_pipeline(cores, files, targets or ("results/tables/all.csv", "figures")))


def main() -> None:
    """Runs a command; what the user can mend ends in one line, not in a traceback."""
    import signal

    from dvfl.errors import UserError, is_users_to_mend
    from dvfl.files import explain

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the jobs' shell ignores it, so that its commands can decide
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("dvfl: stopped; what is finished is kept, and the same command goes on from there")
        sys.exit(130)
    except Exception as error:
        if not is_users_to_mend(error):
            raise
        text = str(error) if isinstance(error, UserError) else explain(error)
        for line in text.splitlines() or [repr(error)]:
            say(f"dvfl: {line}")
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
