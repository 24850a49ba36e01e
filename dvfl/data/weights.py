"""Weights that others trained: fetched by name and verified, or a file of the user's own, as it is."""

from __future__ import annotations

from pathlib import Path

from dvfl import paths
from dvfl.config import Config
from dvfl.data.errors import DataError
from dvfl.data.fetch import Download, fetch_all, remember, verify
from dvfl.files import required, sha256


def fetch_weights(config: Config, name: str) -> Path:
    """Fetches weights of weights_definitions, or verifies those that are there; their path. Raises FetchError."""
    download = _download(config, name)
    remember(download, fetch_all([download], config.fetch, f"Fetching {name}")[download.path])
    return download.path


def weights_sha256(config: Config, weights: str) -> str:
    """sha256 of weights given by name or by path; of named ones, once they are what their definition says.

    Raises MissingInput, FetchError or DataError.
    """
    path = paths.weights_path(config, weights)
    if weights in config.weights_definitions:
        download = _download(config, weights)
        found = verify(required(path), download)
        remember(download, found)
        return found
    if path.is_relative_to(paths.RESULTS):
        return sha256(required(path))  # says which run makes it
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; mend the path in the config")
    return sha256(path)


def _download(config: Config, name: str) -> Download:
    definition = config.weights_definitions[name]
    return Download(paths.weights_path(config, name), tuple(definition.urls), definition.size, definition.checksum)
