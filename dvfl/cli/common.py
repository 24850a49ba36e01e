"""What commands share: --config, the RUN or data set that they name, --wait, and how they say something."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dvfl.config import Config


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


def definition_of(config: Config, dataset: str) -> Any:
    from dvfl.plan import used_datasets
    from dvfl.steps import unknown_dataset

    if dataset not in used_datasets(config):
        raise click.BadParameter(unknown_dataset(config, dataset))
    return config.dataset_definitions[dataset]
