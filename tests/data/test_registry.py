"""The registry says what is known of each data set, and where its files and clips belong."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest
import yaml

from dvfl.config import DEFAULT_CONFIG, REGISTRY, ConfigError, DatasetDefinition, load_config
from dvfl.data import registry
from dvfl.data.errors import DataError
from dvfl.files import sha256

PAPER = ("ucf50", "ucf101", "hmdb51", "ssv2", "kinetics400")
KNOWN = load_config(DEFAULT_CONFIG).dataset_definitions
LISTS = Path(__file__).parents[3] / "shared/splits"
SOURCE = {
    "folder": "resources/mine",
    "archives": [{"name": "a.zip", "content": "clips", "urls": ["https://x.example/a.zip"]}],
    "access": "Free.",
    "licence": "None.",
    "citation": "None.",
}


def definition(**values) -> DatasetDefinition:
    source = SOURCE | values.pop("source", {})
    return DatasetDefinition(kind="archives", source=source, **values)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_data_sets_are_known(name):
    source = KNOWN[name].source
    assert KNOWN[name].kind == "archives"
    assert source.licence and source.citation and source.access and source.expected.classes
    addresses = [url for each in source.archives + source.parts for url in each.urls]
    assert all(re.match(r"https?://", url) for url in addresses)
    assert bool(addresses) == (name != "ssv2")
    assert KNOWN[name].horizontal_flip == (name != "ssv2")


def test_who_published_a_checksum_is_said():
    archives = [archive for name in PAPER for archive in KNOWN[name].source.archives if archive.checksum]
    assert sum(archive.content != "released" for archive in archives) == 3
    assert all(archive.checksum.published_by for archive in archives)


@pytest.mark.parametrize("name", ["ucf50", "ucf101", "hmdb51"])
def test_the_authors_lists_are_those_of_one_commit(name):
    released = registry.released(KNOWN[name])
    assert [archive.name for archive in released] == ["labels.csv", "train.csv", "val.csv"]
    assert all(f"/c695f6a802d5fbc00d01e003d3edca26f30191d6/data/{name}/" in archive.urls[0] for archive in released)
    assert KNOWN[name].lists_folder("released") == Path(f"resources/{name}/released")
    if LISTS.is_dir():
        hashes = {archive.name: (archive.checksum.value, archive.size) for archive in released}
        files = (LISTS / "dvfl_released" / name).iterdir()
        assert hashes == {file.name: (sha256(file), file.stat().st_size) for file in files}


def test_lists_are_those_that_come_with_the_clips_unless_others_are_named(tmp_path):
    folders = {name: KNOWN[name].lists_folder("official") for name in PAPER}
    assert folders.pop("ucf50") is None
    assert folders == {name: Path(f"resources/{name}/lists") for name in folders}
    own = {
        "ucf101": {"source": {"folder": "/big"}},
        "hmdb51": {"lists": {"official": str(tmp_path)}},
        "ssv2": {"lists": None},
    }
    known = load_config(DEFAULT_CONFIG, values={"dataset_definitions": own}).dataset_definitions
    assert known["ucf101"].lists_folder("official") == Path("/big/lists")
    assert known["hmdb51"].lists_folder("official") == tmp_path
    assert known["ssv2"].lists_of("split1") is None
    wrong = {"ucf50": {"lists": {"official": "fetched"}}}
    with pytest.raises(ConfigError, match=r"ucf50: lists.official: 'fetched' needs a file with content 'lists'"):
        load_config(DEFAULT_CONFIG, values={"dataset_definitions": wrong})


def test_home_is_where_a_shell_has_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    own = {
        "mine": {"kind": "folder", "root": "~/clips", "lists": {"official": "~/lists", "released": "~/released"}},
        "ucf101": {"archives": "~/archives", "source": {"folder": "~/ucf101"}},
    }
    known = load_config(DEFAULT_CONFIG, values={"dataset_definitions": own}).dataset_definitions
    home, mine, ucf101 = Path("/home/me"), known["mine"], known["ucf101"]
    assert (mine.root, mine.lists.official, mine.lists.released) == (home / "clips", home / "lists", home / "released")
    assert (ucf101.archives, ucf101.source.folder) == (home / "archives", home / "ucf101")
    assert ucf101.lists_folder("official") == home / "ucf101/lists"
    values = {"dataset_definitions": {"mine": {"kind": "folder", "root": "~nobody-of-this-name/clips"}}}
    with pytest.raises(ConfigError, match=r"dataset_definitions.mine.root: has no home .* write the whole path"):
        load_config(DEFAULT_CONFIG, values=values)


@pytest.mark.parametrize(
    ("definition", "kept"),
    [
        ({"root": "/data/UCF-101"}, {"root": Path("/data/UCF-101")}),
        ({"archives": "/data/downloads"}, {"archives": Path("/data/downloads")}),
        ({"splits": ["released"]}, {"splits": ["released"]}),
        ({"group": None}, {"group": None}),
    ],
)
def test_one_key_of_a_known_data_set_is_replaced_and_the_others_stay(definition, kept):
    own = load_config(DEFAULT_CONFIG, values={"dataset_definitions": {"ucf101": definition}}).dataset_definitions
    assert own["ucf101"] == KNOWN["ucf101"].model_copy(update=kept)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"ucf101": {"rot": "/data"}}, "dataset_definitions.ucf101.rot: there is no such key; did you mean 'root'?"),
        ({"ucf101": {"archive": "/data"}}, "ucf101.archive: there is no such key; did you mean 'archives'?"),
        ({"ucf101": {"source": {"fodler": "/data"}}}, "ucf101.source.fodler: there is no such key; did you mean 'fold"),
        (
            {"UCF50": {"root": "/data"}},
            "dataset_definitions.UCF50: there is no data set of that name, and a new one needs `kind`; did you mean "
            "'ucf50'?",
        ),
        ({"ucf101": {"root": ""}}, "ucf101.root: is empty; give a folder, or leave the key out"),
        ({"ucf101": {"kind": "folder", "root": "/data"}}, "give `root` and leave `kind` out"),
        ({"ucf101": "/data"}, "dataset_definitions.ucf101: input should be a valid dictionary"),
    ],
)
def test_a_misspelt_override_is_refused_with_what_was_meant(own, said):
    with pytest.raises(ConfigError) as caught:
        load_config(DEFAULT_CONFIG, values={"dataset_definitions": own})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_all_folds_have_a_short_name():
    own = {"ucf50": {"splits": ["split1", "fold*of25", "fold2of5"]}}
    splits = load_config(DEFAULT_CONFIG, values={"dataset_definitions": own}).dataset_definitions["ucf50"].splits
    assert splits == ["split1", *(f"fold{number}of25" for number in range(1, 26)), "fold2of5"]


@pytest.mark.parametrize(
    "name",
    ["relased", "offical1", "Split1", "split", "split0", "clips", "../split1", "fold7of5", "foldxof5", "fold*of1"],
)
def test_a_misspelt_split_is_refused_before_any_job(name):
    own = {"mine": {"kind": "folder", "root": "/x", "splits": ["split1", name]}}
    with pytest.raises(ConfigError) as caught:
        load_config(DEFAULT_CONFIG, values={"dataset_definitions": own})
    assert str(caught.value) == (
        "dataset_definitions.mine.splits.1: there is no such split; there are split<k>, released, fold<k>of<n> (k from "
        f"1 to n, n at least 2), fold*of<n> and clips<k> (given: {name!r})"
    )


@pytest.mark.parametrize(
    ("dataset", "name", "said"),
    [
        ("ucf101", "split9", "'split9' is none of the owner's, which are split1, split2, split3"),
        ("kinetics400", "split2", "'split2' is none of the owner's, which are split1"),
        ("ssv2", "released", "'released' needs the released lists; give their folder under lists.released"),
        ("motions", "split2", "'split2' is none of the rendered clips', which are split1 and clips<k>"),
        ("motions", "fold1of3", "'fold1of3' is none of the rendered clips', which are split1 and clips<k>"),
    ],
)
def test_a_split_that_the_lists_do_not_have_is_refused_before_any_job(dataset, name, said):
    with pytest.raises(ConfigError, match=re.escape(f"dataset_definitions.{dataset}: splits: {said}")):
        load_config(DEFAULT_CONFIG, values={"dataset_definitions": {dataset: {"splits": [name]}}})


def test_splits_that_can_be_made_are_taken():
    drawn = ["split1", "split9", "clips2", "fold1of2", "fold25of25"]
    own = {"ucf50": {"splits": [*drawn, "released"]}, "mine": {"kind": "folder", "root": "/x", "splits": drawn}}
    own["ucf101"] = {"lists": {"official": "/lists"}, "splits": ["split4"]}  # the user's lists: only they can tell
    assert load_config(DEFAULT_CONFIG, values={"dataset_definitions": own}).dataset_definitions["ucf50"].splits[-1] == (
        "released"
    )


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"source": {**SOURCE, "licnce": "x"}}, "source.licnce: there is no such key; did you mean 'licence'"),
        ({"source": {**SOURCE, "archives": []}}, "needs `archives` or `parts`"),
        ({"source": {**SOURCE, "archives": SOURCE["archives"] * 2}}, "two archives of one name"),
        ({"source": {**SOURCE, "layout": "ssv2"}}, "layout 'ssv2' needs an archive with content 'lists'"),
        ({"source": None}, "kind 'archives' needs the key 'source'"),
        ({"kind": "folder"}, "belong to kind 'archives' only"),
    ],
)
def test_a_wrong_entry_is_refused(over, message):
    entry = {"kind": "archives", "root": "/x", "source": SOURCE} | over
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(DEFAULT_CONFIG, values={"dataset_definitions": {"mine": entry}})


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        ({"checksum": {"algorithm": "md5", "value": "abc", "published_by": "us"}}, "md5 has 32 digits, not 3"),
        ({"name": "../a.zip"}, "source.archives.0.name"),
        ({"total_size": 5}, "total_size is that of numbered parts: say `size`"),
        ({"name": "a-??"}, "numbered parts are put there by hand"),
        ({"md5": "abc"}, "source.archives.0.md5: there is no such key"),
    ],
)
def test_a_wrong_archive_is_refused(archive, message):
    source = SOURCE | {"archives": [SOURCE["archives"][0] | archive]}
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(DEFAULT_CONFIG, values={"dataset_definitions": {"mine": {"kind": "archives", "source": source}}})


@pytest.mark.parametrize(
    ("name", "stem", "group"),
    [
        ("ucf101", "v_HandStandPushups_g01_c02", "v_HandStandPushups_g01"),
        ("ucf50", "v_BaseballPitch_g25_c07", "v_BaseballPitch_g25"),
        ("hmdb51", "April_09_brush_hair_u_nm_np1_ba_goo_0", "April_09_brush_hair"),
        ("hmdb51", "#20_Rhythm_clap_u_nm_np1_fr_goo_0", "#20_Rhythm_clap"),
        ("kinetics400", "-_abcDEF-09_000412_000422", "-_abcDEF-09"),
    ],
)
def test_groups_are_source_videos(name, stem, group):
    assert re.search(KNOWN[name].group, stem)["group"] == group


@pytest.mark.skipif(not LISTS.is_dir(), reason="the lists are not beside the project")
@pytest.mark.parametrize(
    ("name", "pattern", "clips"), [("ucf101", "*list01.txt", 13320), ("hmdb51", "*_split1.txt", 6766)]
)
def test_every_official_clip_has_a_group(name, pattern, clips):
    lines = [line for file in (LISTS / name).glob(pattern) for line in file.read_text().splitlines() if line.strip()]
    stems = [PurePosixPath(line.split()[0]).stem for line in lines]
    assert len(stems) == clips == KNOWN[name].source.expected.clips
    assert all(re.search(KNOWN[name].group, stem) for stem in stems)


# --------------------------------------------------------------------------------------------------------- on disk


def test_own_clips_leave_lists_to_fetch(tmp_path):
    assert [archive.content for archive in registry.needed(KNOWN["ucf101"])] == ["lists", "clips"]
    own = KNOWN["ucf101"].model_copy(update={"root": tmp_path})
    assert [archive.content for archive in registry.needed(own)] == ["lists"]
    assert len(registry.shards(KNOWN["kinetics400"])) == 16
    assert len(registry.shards(KNOWN["kinetics400"].model_copy(update={"root": tmp_path}))) == 0


def test_own_clips_with_own_lists_leave_nothing_to_fetch(tmp_path):
    own = {name: {"root": str(tmp_path), "lists": {"official": str(tmp_path / "lists")}} for name in PAPER}
    known = load_config(DEFAULT_CONFIG, values={"dataset_definitions": own}).dataset_definitions
    assert [registry.needed(known[name]) for name in PAPER] == [[]] * 5
    assert not registry.comes_by_hand(known["ssv2"])
    (tmp_path / "lists").mkdir()
    for name in ("train", "val"):
        row = "label,youtube_id,time_start,time_end\nrun/jump,abc,3,13\n"
        (tmp_path / f"lists/{name}.csv").write_text(row)
    place = registry.clip_places(known["kinetics400"])
    assert place(PurePosixPath("any/abc_000003_000013.mp4")) == PurePosixPath("run-jump/abc_000003_000013.mp4")


def test_only_ssv2_needs_an_account():
    assert [name for name in KNOWN if registry.comes_by_hand(KNOWN[name])] == ["ssv2"]


def test_files_are_found_in_the_users_folder_first(tmp_path):
    mine = definition(archives=tmp_path / "have", source={"folder": str(tmp_path / "mine")})
    assert registry.files_of(mine, "a.zip") == []
    for folder in (tmp_path / "mine/archives", tmp_path / "have"):
        folder.mkdir(parents=True)
        (folder / "a.zip").touch()
        assert registry.files_of(mine, "a.zip") == [folder / "a.zip"]


def test_a_part_that_is_missing_in_the_middle_is_named(tmp_path):
    mine = definition(archives=tmp_path)
    for number in (0, 1, 3):
        (tmp_path / f"v2-{number:02d}").touch()
    (tmp_path / "v2-labels").touch()
    with pytest.raises(DataError, match="v2-02 is missing, though a later part is there"):
        registry.files_of(mine, "v2-??")
    (tmp_path / "v2-02").touch()
    assert [file.name for file in registry.files_of(mine, "v2-??")] == ["v2-00", "v2-01", "v2-02", "v2-03"]


def test_parts_may_be_zipped_and_those_that_are_unzipped_count_first(tmp_path):
    mine = definition(archives=tmp_path)
    (tmp_path / "v2-01.zip").touch()
    with pytest.raises(DataError, match=r"v2-00\.zip is missing"):
        registry.files_of(mine, "v2-??")
    (tmp_path / "v2-00.zip").touch()
    assert [file.name for file in registry.files_of(mine, "v2-??")] == ["v2-00.zip", "v2-01.zip"]
    (tmp_path / "v2-00").touch()
    assert [file.name for file in registry.files_of(mine, "v2-??")] == ["v2-00"]


@pytest.mark.parametrize(
    ("member", "place"),
    [
        ("UCF-101/PullUps/v_PullUps_g01_c01.avi", "PullUps/v_PullUps_g01_c01.avi"),
        ("brush_hair/x.AVI", "brush_hair/x.AVI"),
        ("UCF-101/PullUps/Thumbs.db", None),
        ("UCF-101/PullUps/._v_PullUps_g01_c01.avi", None),
        ("lonely.avi", None),
    ],
)
def test_clips_in_class_folders(member, place):
    found = registry.clip_places(KNOWN["ucf101"])(PurePosixPath(member))
    assert found == (place and PurePosixPath(place))


def test_lists_without_their_columns_are_named(tmp_path):
    mine = definition(
        source={
            "folder": str(tmp_path),
            "layout": "kinetics",
            "archives": [{"name": "train.csv", "content": "lists", "urls": ["https://x.example/train.csv"]}],
        }
    )
    with pytest.raises(DataError, match=r"has no list \*train\.csv"):
        registry.clip_places(mine)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.csv").write_text("label,youtube_id\nrun,abc\n")
    (tmp_path / "lists/val.csv").touch()
    with pytest.raises(DataError, match=r"train\.csv: needs the columns label, youtube_id, time_start and time_end"):
        registry.clip_places(mine)


def test_the_registry_itself_is_plain(tmp_path):
    assert set(yaml.safe_load(REGISTRY.read_text())) == {"motions", *PAPER}
