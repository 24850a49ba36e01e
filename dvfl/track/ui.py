"""The MLflow UI over this project's runs."""

from __future__ import annotations

import os
import sys

from dvfl.config import ConfigError, TrackingConfig
from dvfl.redaction import redact
from dvfl.track.store import ENVIRONMENT, is_database, store_uri

HOST = "127.0.0.1"


def ui_command(tracking: TrackingConfig, port: int = 5000) -> list[str]:
    """The command that serves a local store on 127.0.0.1, to be run with `ui_environment`.

    Raises ConfigError where the store is a server, which has a UI of its own.
    """
    if not is_database(tracking.uri):
        raise ConfigError(f"tracking.uri: {redact(tracking.uri)} is a server; open it in a browser instead")
    # MLflow refuses host names that it does not expect, to keep web pages from reaching it by
    # names of their own; by default it accepts loopback and private addresses with any port.
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    return [*command, "--workers", "1", "--no-serve-artifacts"]


def ui_environment(tracking: TrackingConfig) -> dict[str, str]:
    """This process's environment with what the UI needs.

    The store is named here, since every user of a machine can read the arguments of its commands.
    """
    own = {
        "MLFLOW_BACKEND_STORE_URI": store_uri(tracking),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs of its own that nobody here uses
    }
    return {**ENVIRONMENT, **os.environ, **own}
