"""A finished result packed for publication: an RO-Crate, a ZIP file that says of itself what made what.

Metadata follow RO-Crate and its Process Run Crate profile: every training is a CreateAction from its inputs to its
outputs, each file with its sha256. Weights and clips stay out unless asked for; their hashes are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from dvfl.config import PROJECT, Config
from dvfl.errors import UserError
from dvfl.files import atomic, required, sha256
from dvfl.paths import RESULTS, released_loss_path
from dvfl.provenance.records import WEIGHTS, Record, Records
from dvfl.redaction import redact
from dvfl.steps import FIGURES, TABLES
from dvfl.train.provenance import code_version

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_OF_PROJECT = ("CITATION.cff", "LICENSE", "envs/requirements.txt", "config/published.csv")
_OF_RUN = ("run.json", "history.csv", "predictions.parquet", "scores.json", "motion_check.json")
_FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".parquet": "application/vnd.apache.parquet",
    ".yaml": "application/yaml",
}


def pack(config: Config, out: Path, with_weights: bool = False) -> list[Record]:
    """Writes the crate of the results in the working directory; the runs that its tables rest on.

    config: the one that made the results; it is packed without credentials. Raises UserError where `out` is no .zip,
    a table or figure is not there, or a run of the tables has no record.
    """
    from rocrate.rocrate import ROCrate

    if out.suffix != ".zip":
        raise UserError(f"{out}: a packed result is a .zip file; give it that ending")
    records = Records(RESULTS)
    runs, profiles = _behind_tables(records)
    crate = ROCrate(gen_preview=True)
    _describe(crate)
    content = redact(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120))
    crate.add_file(BytesIO(content.encode()), "config.yaml", properties={"name": "the config, defaults included"})
    files = [*_tables_and_figures(), *_data(records, runs), *(profile.path for profile in profiles)]
    files += [record.directory / name for record in runs for name in _OF_RUN]
    files += [record.directory / WEIGHTS for record in runs if with_weights]
    files += [note for record in (*runs, *profiles) if (note := record.delivery_note)]
    packed = {file: _add(crate, file, file.as_posix()) for file in files if file.is_file()}
    for name in _OF_PROJECT:
        _add(crate, PROJECT / name, name)
    actions = [_training(crate, records, record, packed) for record in runs]
    actions += [_measuring(crate, profile, packed) for profile in profiles]
    crate.root_dataset["mentions"] = actions
    with atomic(out) as partial:
        crate.write_zip(partial)
    return runs


def _behind_tables(records: Records) -> tuple[list[Record], list[Record]]:
    """The runs that the tables name, with their teachers and what they started from, and the profiles."""
    table = required(RESULTS / "tables/all.csv")
    names = pd.read_csv(table, dtype=str, keep_default_na=False)["run_ids"].str.split(";").explode()
    found: dict[Path, Record] = {}
    for run_id in dict.fromkeys(name for name in names if name):
        if run_id not in records.by_id:
            raise UserError(f"{table}: no run and no profile under {RESULTS} has the run id {run_id}; make it again")
        waiting: list[Record | None] = [records.by_id[run_id]]
        while waiting:
            record = waiting.pop()
            if record is not None and record.path not in found:
                found[record.path] = record
                waiting += [] if record.is_profile else [records.teacher(record), records.start(record)]
    everything = list(found.values())
    return [each for each in everything if not each.is_profile], [each for each in everything if each.is_profile]


def _tables_and_figures() -> Iterator[Path]:
    for name in ("all", *TABLES):
        required(RESULTS / f"tables/{name}.csv")
    for name in FIGURES:
        required(RESULTS / f"figures/{name}.png")
    for folder in ("tables", "figures"):
        yield from sorted(file for file in (RESULTS / folder).rglob("*") if not file.name.startswith("."))


def _data(records: Records, runs: list[Record]) -> Iterator[Path]:
    """Names and hashes of the clips, splits, their audits, what studies chose, and the released loss as measured."""
    for dataset in dict.fromkeys(record.about["dataset"] for record in runs):
        folder = RESULTS / "data" / dataset
        yield folder / "index.parquet"
        yield from sorted(folder.glob("splits/*.csv"))
        yield from sorted(folder.glob("audit/*.csv"))
        for name in ("choice.json", "trials.csv"):
            yield from sorted((RESULTS / "ablation" / dataset).glob(f"*/{name}"))
    yield released_loss_path()


# ----------------------------------------------------------------------------------------------------------- metadata


def _describe(crate: ROCrate) -> None:
    """Title, authors and licence as CITATION.cff has them, and the commit that packs."""
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    commit, _ = code_version()
    root = crate.root_dataset
    crate.name = f"Results of {citation['title']}"
    crate.description = (
        "Tables, figures, predictions and scores, with the config, the splits and the record of every run behind them. "
        f"Packed by commit {commit or 'unknown'}."
    )
    licence = f"https://spdx.org/licenses/{citation['license']}"
    crate.license = crate.add_jsonld({"@id": licence, "@type": "CreativeWork", "name": citation["license"]})
    root["author"] = [_author(crate, i, author) for i, author in enumerate(citation["authors"])]
    root["version"] = citation["version"]
    root["conformsTo"] = crate.add_jsonld(
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": PROFILE.rsplit("/", 1)[1]}
    )


def _author(crate: ROCrate, number: int, author: dict[str, str]) -> Entity:
    """A person, or a group that has one name."""
    if "name" in author:
        return crate.add_jsonld({"@id": f"#author{number}", "@type": "Organization", "name": author["name"]})
    names = {"givenName": author.get("given-names"), "familyName": author.get("family-names")}
    known = {key: name for key, name in names.items() if name}
    identity = author.get("orcid") or f"#author{number}"
    return crate.add_jsonld({"@id": identity, "@type": "Person", "name": " ".join(known.values()), **known})


def _add(crate: ROCrate, file: Path, place: str) -> Entity:
    properties = {"name": file.name, "sha256": sha256(file), "contentSize": str(file.stat().st_size)}
    if file.suffix in _FORMATS:
        properties["encodingFormat"] = _FORMATS[file.suffix]
    return crate.add_file(file, place, properties=properties)


def _training(crate: ROCrate, records: Records, record: Record, packed: dict[Path, Entity]) -> Entity:
    about, folder = record.about, record.directory
    before = {"teacher_weights": records.teacher(record), "start_from": records.start(record)}
    inputs = [packed[path] for path in (records.index(record), records.split(record)) if path in packed]
    for what in ("teacher_weights", "weights", "start_from"):
        if about["inputs"].get(what):
            name = f"{what.replace('_', ' ')} of {folder.as_posix()}"
            of = before[what].directory if before.get(what) else None
            inputs.append(_weights(crate, about["inputs"][what], name, of, packed))
    results = [packed[folder / name] for name in _OF_RUN if folder / name in packed]
    own = records.weights_hash(record)
    if own:
        results.append(_weights(crate, own, f"weights of {folder.as_posix()}", folder, packed))
    return crate.add_action(
        _software(crate, about),
        f"#{folder.as_posix()}",
        object=inputs,
        result=results,
        properties={
            "name": about["name"],
            "description": f"{about['model']} on {about['train_clips']} clips of {about['dataset']}, {about['split']}",
            "actionStatus": "http://schema.org/CompletedActionStatus",
            "identifier": record.id,
        },
    )


def _measuring(crate: ROCrate, profile: Record, packed: dict[Path, Entity]) -> Entity:
    about = profile.about
    properties = {"name": f"profile of {about.get('name', about['model'])}", "identifier": profile.id}
    return crate.add_action(
        _software(crate, about), f"#{profile.path.as_posix()}", result=[packed[profile.path]], properties=properties
    )


def _weights(crate: ROCrate, digest: str, name: str, folder: Path | None, packed: dict[Path, Entity]) -> Entity:
    """The weights of a run as a file of the crate, else by their hash."""
    file = folder and folder / WEIGHTS
    if file in packed and packed[file]["sha256"] == digest:
        return packed[file]
    known = crate.get(f"#sha256-{digest}")
    described = {"@id": f"#sha256-{digest}", "@type": "CreativeWork", "name": name, "sha256": digest}
    return known or crate.add_jsonld(described)


def _software(crate: ROCrate, about: dict[str, Any]) -> Entity:
    """The code that did it, one entity for each version."""
    commit = about.get("commit") or "not recorded"
    version = f"{commit}, with uncommitted changes" if about.get("dirty") else commit
    identity = f"#dvfl-{version}".replace(", ", "-").replace(" ", "-")
    described = {"@id": identity, "@type": "SoftwareApplication", "name": "dvfl", "softwareVersion": version}
    return crate.get(identity) or crate.add_jsonld(described)
