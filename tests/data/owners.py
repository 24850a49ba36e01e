"""The five data sets as their owners give them out, tiny: archives of exactly their layouts, and their config."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import yaml

from dvfl.config import REGISTRY
from tests.data.archives import rar_of, tgz_of, zip_of

CLASSES = ("run", "jump")
HMDB_CLIP = "#{number}_Film_{name}_u_nm_np1_fr_goo_0.avi"
SSV2_CLASSES = ("Pushing [something] from left to right", "Pushing [something] from right to left")
KINETICS_CLASSES = ("abseiling", "air drumming")
YOUTUBE = "abcdefghij{number}"


def ucf101(video: bytes) -> dict[str, bytes]:
    names = [(name, f"v_{name}_g{group:02d}_c01.avi") for name in CLASSES for group in range(1, 7)]
    test = [f"{name}/{clip}" for name, clip in names if "_g01_" in clip]
    train = [f"{name}/{clip} {1 + CLASSES.index(name)}" for name, clip in names if "_g01_" not in clip]
    lists = {}
    for split in ("01", "02", "03"):
        lists[f"ucfTrainTestlist/trainlist{split}.txt"] = "\r\n".join(train).encode()
        lists[f"ucfTrainTestlist/testlist{split}.txt"] = "\r\n".join(test).encode()
    lists["ucfTrainTestlist/classInd.txt"] = b"1 run\r\n2 jump\r\n"
    return {
        "/crcv/data/UCF101/UCF101.rar": rar_of({f"UCF-101/{name}/{clip}": video for name, clip in names}),
        "/crcv/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip": zip_of(lists),
    }


def ucf50(video: bytes) -> dict[str, bytes]:
    files = {f"UCF50/{name}/v_{name}_g{group:02d}_c01.avi": video for name in CLASSES for group in range(1, 7)}
    return {"/crcv/data/UCF50.rar": rar_of(files)}


def hmdb51(video: bytes) -> dict[str, bytes]:
    clips = {name: [HMDB_CLIP.format(name=name, number=number) for number in range(6)] for name in CLASSES}
    inner = {f"{name}.rar": rar_of({f"{name}/{clip}": video for clip in clips[name]}) for name in CLASSES}
    lists = {
        f"testTrainMulti_7030_splits/{name}_test_split{split}.txt": "".join(
            f"{clip} {flag} \n" for clip, flag in zip(clips[name], (2, 1, 1, 1, 1, 0), strict=True)
        ).encode()
        for name in CLASSES
        for split in (1, 2, 3)
    }
    uploads = "/serre/wp-content/uploads/2013/10"
    return {f"{uploads}/hmdb51_org.rar": rar_of(inner), f"{uploads}/test_train_splits.rar": rar_of(lists)}


def ssv2(video: bytes) -> dict[str, bytes]:
    """What a user with an account downloads, by file name."""
    templates = {number: SSV2_CLASSES[number % 2] for number in range(1, 13)}
    clips = [{"id": str(number), "template": template} for number, template in templates.items()]
    labels = {
        "labels/labels.json": json.dumps({name.replace("[", "").replace("]", ""): "0" for name in SSV2_CLASSES}),
        "labels/train.json": json.dumps(clips[:8]),
        "labels/validation.json": json.dumps(clips[8:]),
        "labels/test.json": json.dumps([{"id": "99"}]),
    }
    tgz = tgz_of({f"20bn-something-something-v2/{number}.webm": video for number in [*templates, 99]})
    step = -(-len(tgz) // 3)
    parts = {f"20bn-something-something-v2-{n:02d}": tgz[n * step : (n + 1) * step] for n in range(3)}
    zipped = zip_of({name: text.encode() for name, text in labels.items()})
    return {"20bn-something-something-download-package-labels.zip": zipped, **parts}


def kinetics400(video: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    owner = "https://s3.amazonaws.com/kinetics/400"
    for subset, numbers in (("train", range(8)), ("val", range(8, 10))):
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        parts = []
        for number in numbers:
            rows.writerow([KINETICS_CLASSES[number % 2], YOUTUBE.format(number=number), 3, 13, subset])
        for part, start in enumerate(range(0, len(numbers), 2)):
            names = [f"{YOUTUBE.format(number=number)}_000003_000013.mp4" for number in numbers[start : start + 2]]
            files[f"/s3/kinetics/400/{subset}/part_{part}.tar.gz"] = tgz_of({f"./{name}": video for name in names})
            parts.append(f"{owner}/{subset}/part_{part}.tar.gz\n")
        files[f"/s3/kinetics/400/{subset}/k400_{subset}_path.txt"] = "".join(parts).encode()
        files[f"/s3/kinetics/400/annotations/{subset}.csv"] = table.getvalue().encode()
    replaced = f"replacement_for_corrupted_k400/{YOUTUBE.format(number=0)}_000003_000013.mp4"
    files["/s3/kinetics/400/replacement_for_corrupted_k400.tgz"] = tgz_of({replaced: video + b"mended"})
    return files


def released(name: str) -> dict[str, bytes]:
    """The authors' lists of a small data set, with HMDB51's labels as they are: shifted."""
    if name == "hmdb51":
        clips = [f"{each}/{HMDB_CLIP.format(name=each, number=number)}" for each in CLASSES for number in range(6)]
    else:
        clips = [f"{each}/v_{each}_g{group:02d}_c01.avi" for each in CLASSES for group in range(1, 7)]
    shift = 2 if name == "hmdb51" else 0
    labels = {each: str(label + shift) for label, each in enumerate(CLASSES)}
    lists = {"labels.csv": ["id,name", *(f"{label},{each}" for label, each in enumerate(CLASSES))]}
    for subset, places in (("train", range(1, 6)), ("val", range(1))):
        chosen = [clip for place, clip in enumerate(clips) if place % 6 in places]
        lists[f"{subset}.csv"] = [f"{subset}/{clip},{labels[clip.split('/')[0]]}" for clip in chosen]
    folder = f"/github/hayatkhan8660-maker/DVFL-Net/c695f6a802d5fbc00d01e003d3edca26f30191d6/data/{name}"
    return {f"{folder}/{file}": "\n".join(lines).encode() for file, lines in lists.items()}


NAMED = ("split1", "split2", "split3")
SPLITS = {
    "ucf101": {name: {"train": 10, "test": 2} for name in (*NAMED, "released")},
    "ucf50": {"released": {"train": 10, "test": 2}},
    "hmdb51": {name: {"train": 8, "test": 2} for name in NAMED} | {"released": {"train": 10, "test": 2}},
    "ssv2": {"split1": {"train": 8, "test": 4}},
}
COUNTS = {"ucf101": 12, "ucf50": 12, "hmdb51": 12, "ssv2": 12, "kinetics400": 10}


def definitions(folder: str) -> dict[str, Any]:
    """The registry's entries, with the sizes, checksums and counts of the tiny archives, fetched into a folder."""
    registry = yaml.safe_load(REGISTRY.read_text())
    small = {name: registry[name] for name in COUNTS}
    for name, definition in small.items():
        source = definition["source"]
        source["folder"] = f"{folder}/{name}"
        source["expected"] = {"clips": COUNTS[name], "classes": 2, "splits": SPLITS.get(name, {})}
        source["wait_hours"] = 0
        for archive in source["archives"]:
            archive.pop("size", None)
            archive.pop("total_size", None)
            archive.pop("checksum", None)
    small["kinetics400"]["source"]["shards"] = small["kinetics400"]["index_shards"] = 2
    small["ssv2"]["index_shards"] = 1
    return small


def mirrors(server_url: str) -> Mapping[str, str]:
    """`fetch.rewrite` to a server that has all of these."""
    return {
        "https://www.crcv.ucf.edu/": f"{server_url}/crcv/",
        "https://serre-lab.clps.brown.edu/": f"{server_url}/serre/",
        "https://s3.amazonaws.com/": f"{server_url}/s3/",
        "https://raw.githubusercontent.com/": f"{server_url}/github/",
    }
