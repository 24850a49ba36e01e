"""Weights by name: fetched once, verified ever after."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dvfl.config import DEFAULT_CONFIG, Config, load_config
from dvfl.data.errors import DataError
from dvfl.data.fetch import FetchError
from dvfl.data.weights import fetch_weights, weights_sha256
from dvfl.files import MissingInput
from tests.data.server import serving

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = Path("resources/weights/focalnet_tiny_srf.pth")
PATH = "/microsoft/FocalNet/releases/download/v1.0.0/focalnet_tiny_srf.pth"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        server.files[PATH] = CONTENT
        yield server


def config(server, **definition) -> Config:
    values = {
        "fetch": {"rewrite": {"https://github.com": server.url()}, "backoff": 0, "retries": 1},
        "weights_definitions": {"focalnet_tiny_srf": definition},
    }
    return load_config(DEFAULT_CONFIG, values=values)


def checksum(value: str) -> dict:
    return {"algorithm": "sha256", "value": value, "published_by": "a test"}


def test_named_weights_are_fetched_once_and_their_sha256_recorded(server):
    assert fetch_weights(config(server), "focalnet_tiny_srf") == FILE
    assert FILE.read_bytes() == CONTENT
    assert fetch_weights(config(server), "focalnet_tiny_srf") == FILE
    assert len(server.asked) == 1
    assert weights_sha256(config(server), "focalnet_tiny_srf") == SHA256
    assert FILE.with_name(f"{FILE.name}.sha256").read_text() == f"{SHA256}  {FILE.name}\n"
    FILE.write_bytes(CONTENT + b"!")
    with pytest.raises(FetchError, match="not the one seen first"):
        weights_sha256(config(server), "focalnet_tiny_srf")


def test_a_published_checksum_and_size_are_compared(server):
    with pytest.raises(FetchError, match="published by a test"):
        fetch_weights(config(server, checksum=checksum("0" * 64)), "focalnet_tiny_srf")
    with pytest.raises(FetchError, match="7,000 bytes, not the 7,001 expected"):
        fetch_weights(config(server, size=7001), "focalnet_tiny_srf")
    assert not FILE.exists()
    fetch_weights(config(server, checksum=checksum(SHA256), size=7000), "focalnet_tiny_srf")


def test_a_page_in_place_of_the_file_says_where_to_put_it(server):
    server.files[PATH] = b"<!DOCTYPE html><title>Virus scan warning</title>"
    with pytest.raises(FetchError, match=f"a web page .*\n.*put it at {FILE}"):
        fetch_weights(config(server), "focalnet_tiny_srf")


def test_weights_that_are_not_there_say_how_to_get_them(server, tmp_path):
    with pytest.raises(MissingInput, match=f"dvfl results {FILE}"):
        weights_sha256(config(server), "focalnet_tiny_srf")
    with pytest.raises(DataError, match=r"mine\.pth: no such weights file; mend the path in the config"):
        weights_sha256(config(server), "mine.pth")
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    assert weights_sha256(config(server), "mine.pth") == SHA256
