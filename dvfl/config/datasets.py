"""Data sets: where clips come from, what they are called, how they are split, and how they are fetched."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from dvfl.config.section import Count, EachOnce, Name, Positive, Section


def _at_home(path: Path) -> Path:
    """~/clips as a shell reads it."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"has no home that is known ({error}); write the whole path") from error


def _named(path: Any) -> Path:
    if not isinstance(path, str | Path):
        raise ValueError("should be the path of a folder")
    if path == "":  # would be the folder that the command runs in
        raise ValueError("is empty; give a folder, or leave the key out")
    return Path(path)


Folder = Annotated[Path, BeforeValidator(_named), AfterValidator(_at_home)]


class ListsConfig(Section):
    """Published lists of a data set; a folder's file names tell the format."""

    official: Literal["fetched"] | Folder | None = Field(
        None,
        description="Folder of the owner's lists, which splits split1, split2, … follow; fetched: those that come with "
        "the clips; None: these splits are drawn.",
    )
    released: Literal["fetched"] | Folder | None = Field(
        None,
        description="Folder of other released lists, which split `released` follows; fetched: those named by `source`.",
    )
    mismatch: Literal["report", "error"] = Field(
        "report",
        description="What a clip that is listed and not there (or unreadable), or there and not listed, leads to; "
        "report: it is counted, and named in splits/<split>.mismatch.csv.",
    )


FETCHED_LISTS = {"official": "lists", "released": "released"}  # an archive's content, and its folder


SPLITS = "split<k>, released, fold<k>of<n> (k from 1 to n, n at least 2), fold*of<n> and clips<k>"


def _each_fold(splits: Any) -> Any:
    """fold*of5 as fold1of5, …, fold5of5."""
    if not isinstance(splits, list):
        return splits
    named: list[Any] = []
    for split in splits:
        folds = re.fullmatch(r"fold\*of([1-9]\d{0,3})", str(split))
        count = int(folds[1]) if folds else 0
        named += [f"fold{number}of{count}" for number in range(1, count + 1)] if count > 1 else [split]
    return named


def split_name(name: str) -> str:
    """The name of a split, if it is one that can be made; ValueError otherwise."""
    fold = re.fullmatch(r"fold([1-9]\d{0,3})of([1-9]\d{0,3})", name)
    if re.fullmatch(r"(split|clips)[1-9]\d{0,3}|released", name) or (fold and 2 <= int(fold[2]) >= int(fold[1])):
        return name
    raise ValueError(f"there is no such split; there are {SPLITS}")


SplitName = Annotated[str, AfterValidator(split_name)]


class DatasetDefinition(Section):
    kind: Literal["archives", "folder", "motions"] = Field(
        description="archives: fetched from its owner; folder: root/<class>/<clip>, yours; motions: rendered here, "
        "nothing to download."
    )
    root: Folder | None = Field(
        None,
        description="Folder that holds the clips (folder: required; archives: clips that you have extracted already, "
        "which are then used as they are and not fetched).",
    )
    archives: Folder | None = Field(
        None, description="Folder with archives that you have already; they are checked and read there (archives)."
    )
    group: str | None = Field(
        None,
        description="Regular expression searched in a file's stem; its group `group` names the source of the clip. "
        "Clips of one source never straddle a split. None: every clip is its own source. A second group `fold`, if "
        "there is one, names what splits fold<k>of<n> leave out of all classes at once (UCF50: g01 to g25).",
    )
    lists: ListsConfig | None = Field(None, description="Published lists of which clips train and test.")
    splits: Annotated[list[SplitName], BeforeValidator(_each_fold), EachOnce] = Field(
        ["split1"],
        min_length=1,
        description="Names of the splits to run: split<k> (the owner's list, else drawn by group), released, "
        "fold<k>of<n> (k-fold by group; with as many folds as there are groups, leave one group out), fold*of<n> (all "
        "of these folds), clips<k> (drawn clip by clip, so that sources leak from train into test, as in the released "
        "list of HMDB51).",
    )
    test_fraction: float = Field(
        0.25, gt=0.0, le=0.5, description="Share of the clips held out for test, where no list says."
    )
    validation_fraction: float = Field(
        0.2, gt=0.0, le=0.5, description="Share of the training clips held out to choose on, by group."
    )
    split_seed: int = Field(0, ge=0, description="Seed of the splits.")
    horizontal_flip: bool = Field(
        True, description="Whether a mirrored clip keeps its class (not where left and right are classes)."
    )
    index_shards: Count = Field(
        1,
        description="Jobs that share the reading of the clips, side by side on a cluster; another number reads anew.",
    )
    min_frames: Count = Field(1, description="Clips with fewer frames are listed as too_short and left out.")
    motions: MotionsConfig | None = Field(None, description="How to render the embedded data set (motions).")
    source: SourceConfig | None = Field(None, description="Where the clips come from, and how many (archives).")

    @field_validator("group")
    @classmethod
    def _pattern_names_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if "group" not in compiled.groupindex:
            raise ValueError("needs a named group, for example '(?P<group>.+)_c\\d+$'")
        return pattern

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> DatasetDefinition:
        if self.kind == "motions" and self.motions is None:
            raise ValueError("kind 'motions' needs the key 'motions'")
        if self.kind != "motions" and self.motions is not None:
            raise ValueError("the key 'motions' belongs to kind 'motions' only")
        if self.kind == "archives" and self.source is None:
            raise ValueError("kind 'archives' needs the key 'source'")
        if self.kind != "archives" and (self.source is not None or self.archives is not None):
            raise ValueError(
                "the keys 'source' and 'archives' belong to kind 'archives' only; for your copy of a known data set "
                "give `root` and leave `kind` out"
            )
        contents = {archive.content for archive in self.source.archives} if self.source else set()
        for which, content in FETCHED_LISTS.items():
            if self.fetches_lists(which) and self.kind != "motions" and content not in contents:
                raise ValueError(f"lists.{which}: 'fetched' needs a file with content {content!r} in source.archives")
        return self

    @model_validator(mode="after")
    def _splits_are_there(self) -> DatasetDefinition:
        """What can be known before any list is there: a misspelt name must not wait for hours of fetching."""
        known = [name for name in self.source.expected.splits if name.startswith("split")] if self.source else []
        if self.source and self.source.layout != "class_folders":
            known = ["split1"]  # train and validation, all that these owners' lists have
        for name in self.splits:
            if self.kind == "motions":
                if not re.fullmatch(r"split1|clips\d+", name):
                    raise ValueError(f"splits: {name!r} is none of the rendered clips', which are split1 and clips<k>")
                continue
            which = self.lists_of(name)
            if name == "released" and which is None:
                raise ValueError("splits: 'released' needs the released lists; give their folder under lists.released")
            if which == "official" and self.fetches_lists(which) and known and name not in known:
                raise ValueError(f"splits: {name!r} is none of the owner's, which are {', '.join(known)}")
        return self

    def lists_folder(self, which: Literal["official", "released"]) -> Path | None:
        """Folder of published lists; None where there are none."""
        if self.kind == "motions":
            return self.root / "lists" if which == "official" else None
        folder = getattr(self.lists, which) if self.lists else None
        return self.source.folder / FETCHED_LISTS[which] if folder == "fetched" else folder

    def lists_of(self, split: str) -> Literal["official", "released"] | None:
        """Which published lists a split follows; None where it is drawn."""
        which = "released" if split == "released" else "official" if re.fullmatch(r"split\d+", split) else None
        return which if which and self.lists_folder(which) else None

    def fetches_lists(self, which: Literal["official", "released"]) -> bool:
        """Whether the lists come with the data set, so that nobody has put them there beforehand."""
        return self.kind == "motions" or (self.lists is not None and getattr(self.lists, which) == "fetched")


class MotionsConfig(Section):
    train_groups: int = Field(25, ge=3, description="Appearances to train (and validate) on.")
    test_groups: int = Field(15, ge=1, description="Appearances to test on, none of them trained on.")
    clips_per_group: Count = Field(2, description="Clips of each class in a group.")
    frames: int = Field(16, ge=2, description="Frames of a clip.")
    size: int = Field(72, ge=16, description="Height and width of a frame, pixels.")
    fps: Count = Field(25, description="Frames per second.")
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn.")


class ChecksumConfig(Section):
    algorithm: Literal["md5", "sha1", "sha256"] = Field(description="How it is computed.")
    value: str = Field(pattern=r"^[0-9a-f]+$", description="Lower-case hexadecimal digits.")
    published_by: str = Field(min_length=1, description="Who says so: the owner, or which third party.")

    @model_validator(mode="after")
    def _whole(self) -> ChecksumConfig:
        digits = 2 * hashlib.new(self.algorithm).digest_size
        if len(self.value) != digits:
            raise ValueError(f"{self.algorithm} has {digits} digits, not {len(self.value)}")
        return self


class ArchiveConfig(Section):
    """A file of the owner's: a rar, zip, tar or tar.gz, or a plain list."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.?-]*$",
        description="Name of the file; with ? for the digits, numbered parts of one archive, joined in their order, "
        "each of which may be zipped (<part>.zip).",
    )
    content: Literal["clips", "lists", "released"] = Field(
        description="clips; lists: the owner's labels and splits; released: another's lists, fetched for split "
        "`released` alone."
    )
    urls: list[str] = Field([], description="Addresses, the owner's first, then mirrors; none: put there by hand.")
    size: Count | None = Field(None, description="Bytes, where known.")
    total_size: Count | None = Field(
        None, description="About how many bytes all numbered parts have together: with 5 % less one is missing."
    )
    checksum: ChecksumConfig | None = Field(
        None, description="Where nobody publishes one, the sha256 seen first is recorded and compared from then on."
    )
    nested: bool = Field(False, description="Whether the archive holds archives, which hold the clips.")

    @model_validator(mode="after")
    def _parts_come_by_hand(self) -> ArchiveConfig:
        if "?" in self.name and (self.urls or self.checksum):
            raise ValueError("numbered parts are put there by hand: they have no urls and no checksum")
        if "?" not in self.name and self.total_size:
            raise ValueError("total_size is that of numbered parts: say `size`")
        return self


class PartsConfig(Section):
    """Archives whose addresses stand in a list of the owner's, one a line."""

    name: Name = Field(description="Folder under archives/ that the parts are stored in.")
    urls: list[str] = Field(min_length=1, description="Addresses of the list, the owner's first, then mirrors.")


class ExpectedConfig(Section):
    clips: Count | None = Field(None, description="Clips; None: copies differ, so the index alone says.")
    classes: Count | None = Field(None, description="Classes.")
    splits: dict[Name, dict[Literal["train", "validation", "test"], Count]] = Field(
        {}, description="Clips of each subset in the owner's lists, by split."
    )


class SourceConfig(Section):
    """A data set as its owner gives it out."""

    folder: Folder = Field(description="Folder for what is fetched: archives/, lists/ and clips/<class>/<clip>.")
    layout: Literal["class_folders", "kinetics", "ssv2"] = Field(
        "class_folders", description="What tells a clip's class: its folder, or the owner's lists in their format."
    )
    archives: list[ArchiveConfig] = Field([], description="Files, in the order in which they are extracted.")
    parts: list[PartsConfig] = Field([], description="Lists of further archives, extracted before `archives`.")
    shards: Count = Field(1, description="Jobs that share the parts.")
    expected: ExpectedConfig = Field(default_factory=lambda: ExpectedConfig(), description="What must come out.")
    access: str = Field(description="How to get the files; said where files must be put there by hand.")
    wait_hours: float = Field(24.0, ge=0, description="How long a run waits for files that are put there by hand.")
    licence: str = Field(description="Terms of use.")
    citation: str = Field(description="What to cite.")

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        names = [archive.name for archive in self.archives] + [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError("has two archives of one name")
        if not names:
            raise ValueError("needs `archives` or `parts`")
        if self.layout != "class_folders" and not any(archive.content == "lists" for archive in self.archives):
            raise ValueError(f"layout {self.layout!r} needs an archive with content 'lists'")
        return self


class FetchConfig(Section):
    """How files are fetched."""

    connections: Count = Field(4, description="Files downloaded at once.")
    retries: int = Field(8, ge=0, description="Attempts in a row that may bring nothing before a file is given up.")
    backoff: float = Field(1.0, ge=0, description="Pause before the second attempt, seconds; doubled for each other.")
    timeout: Positive = Field(60.0, description="Seconds without a byte after which a connection is given up.")
    rewrite: dict[str, str] = Field(
        {}, description="Beginnings of addresses and what replaces them: a mirror of your own, such as a lab's."
    )
    keep_archives: bool = Field(True, description="Whether archives fetched here stay once they are extracted.")


DatasetDefinition.model_rebuild()
