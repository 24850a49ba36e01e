"""Clips, their splits, and what a split leaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import definition_of, say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command("await")
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


@click.command()
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


@click.command("fetch-weights")
@with_config
@click.argument("name")
def fetch_weights(config: Config, name: str) -> None:
    """Fetch and verify weights to start from, by their name in weights_definitions."""
    from dvfl.data.weights import fetch_weights as fetch_named

    if name not in config.weights_definitions:
        raise click.BadParameter(f"{name!r} is not among weights_definitions: {', '.join(config.weights_definitions)}")
    say(f"{name}: {fetch_named(config, name)}")


@click.command()
@with_config
@click.argument("dataset")
@click.option("--shard", type=int, default=None, help="Read this share of the clips alone, from 0, of index_shards.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), help="With --shard: file to write when it is read.")
def index(config: Config, dataset: str, shard: int | None, workers: int, out: Path | None) -> None:
    """Open and measure every clip of a data set: index.parquet. Clips that are unchanged are not opened again."""
    from dvfl import paths
    from dvfl.data.index import build_index, clips_root, index_shard, write_index
    from dvfl.files import write_json

    definition = definition_of(config, dataset)
    root, kept = clips_root(definition), paths.readings_path(dataset)
    if shard is not None:
        count = index_shard(root, definition, shard, workers, kept)
        say(f"{dataset}, shard {shard} of {definition.index_shards}: {count} clips read")
        if out:
            write_json(out, {"dataset": dataset, "shard": shard, "shards": definition.index_shards})
        return
    frame = build_index(root, definition, workers, kept)
    write_index(frame, paths.index_path(dataset))
    counts = frame["status"].value_counts()
    say(f"{dataset}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    for clip in frame[frame["status"] != "ok"].head(10).itertuples():
        say(f"  left out: {clip.clip_id}: {clip.reason}")


@click.command()
@with_config
@click.argument("dataset")
@click.argument("name")
def split(config: Config, dataset: str, name: str) -> None:
    """Draw or read a split of a data set: which clips train, validate, test."""
    from dvfl import paths
    from dvfl.data.errors import DataError
    from dvfl.data.index import read_index
    from dvfl.data.splits import make_split, mismatches, published_list, write_split
    from dvfl.files import required
    from dvfl.steps import lacking_labels

    definition = definition_of(config, dataset)
    clips = read_index(required(paths.index_path(dataset)))
    listed = published_list(definition, name)
    if listed is not None:  # before the split, since they may be why it cannot be made
        differing = mismatches(clips, listed)
        write_split(differing, paths.mismatch_path(dataset, name))
        if listed["mislabelled"].any():
            count = listed["mislabelled"].sum()
            say(f"  {count} clips have another number in the list than their class; their folder's class is used")
        for problem, count in differing["problem"].value_counts().items():
            say(f"  {count} clips {problem}: named in {paths.mismatch_path(dataset, name)}")
    try:
        frame = make_split(clips, definition, name)
    except DataError as error:
        raise DataError(f"{dataset}: {error}") from error
    say(f"{dataset} {name}: " + ", ".join(f"{n} {subset}" for subset, n in frame["subset"].value_counts().items()))
    write_split(frame, paths.split_path(dataset, name))
    for line in lacking_labels(config, dataset, name, clips, frame):
        say(f"  will fail in training: {line}")


@click.command()
@with_config
@click.argument("dataset", required=False)
@click.option("--store", help="Fill this store alone, such as 256px_bilinear_q90; all that the runs read unless given.")
@click.option("--shard", type=int, default=None, help="Store this share of the clips alone, from 0.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
def frames(config: Config, dataset: str | None, store: str | None, shard: int | None, workers: int) -> None:
    """Decode each clip once and keep its frames, where the config has an input.frame_store.

    Says first what it will cost on disk and gain in clips/s, and does not start if the disk cannot hold it.
    """
    from dvfl import paths, plan
    from dvfl.data.frame_packing import write_store
    from dvfl.data.index import clips_root, read_index
    from dvfl.files import required, write_json
    from dvfl.stores import frame_stores

    for each in plan.used_datasets(config) if dataset is None else [dataset]:
        definition, stores = definition_of(config, each), frame_stores(config, each)
        if store is not None and store not in stores:
            known = ", ".join(stores) or "none: input.frame_store is null"
            raise click.BadParameter(f"no run on {each} reads the store {store!r}; there are: {known}")
        if not stores:
            say(f"{each}: nothing to store, input.frame_store is null")
        for name in stores if store is None else [store]:
            index = read_index(required(paths.index_path(each)))
            written = paths.frames_written(each, stores[name])
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


@click.command()
@with_config
@click.argument("dataset")
@click.option("--workers", default=1, show_default=True, help="Processes.")
def fingerprint(config: Config, dataset: str, workers: int) -> None:
    """Hash the pictures of every clip of a data set, so that copies are known: fingerprints.parquet."""
    from dvfl.audit.job import fingerprint_dataset

    definition_of(config, dataset)
    say(f"{dataset}: pictures of {fingerprint_dataset(config, dataset, workers)} clips hashed")


@click.command()
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
