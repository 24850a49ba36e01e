"""Where Optuna keeps the trials: a journal file of each study, or PostgreSQL for many workers on many machines."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from dvfl import paths
from dvfl.config import Config
from dvfl.errors import UserError
from dvfl.redaction import redact

optuna.logging.set_verbosity(logging.ERROR)

RETRIES = 10  # of a trial whose workers are killed: it may be what kills them
CONNECT_SECONDS = 10
LOCK_SECONDS = 30  # after which a journal's lock is taken for one that a killed process left


class StorageError(UserError):
    """The database does not do what is asked of it; the message says which, and why, without credentials."""


def journal_path(dataset: str, study: str) -> Path:
    return paths.study_directory(dataset, study) / "optuna.journal"


def open_journal(dataset: str, study: str) -> JournalStorage:
    """A study's journal file; safe to open from several processes."""
    path = journal_path(dataset, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Optuna's default lock is a symbolic link to the journal. Made of a relative path it leads nowhere, and one that a
    # killed process left is then waited for without end.
    lock = JournalFileOpenLock(str(path), grace_period=LOCK_SECONDS)
    return JournalStorage(JournalFileBackend(str(path), lock))


def open_storage(config: Config, dataset: str, study: str) -> BaseStorage:
    """What the config names. Raises StorageError where a database cannot be reached or refuses."""
    if config.ablation.storage is None:
        return open_journal(dataset, study)
    with database_errors(config), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of the heartbeat
        return RDBStorage(
            config.ablation.storage.replace("postgresql://", "postgresql+psycopg://"),
            # What was connected before the database was started again is noticed and connected anew.
            engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}},
            heartbeat_interval=config.ablation.heartbeat,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
                max_retry=RETRIES, inherit_intermediate_values=True
            ),
        )


@contextmanager
def database_errors(config: Config) -> Iterator[None]:
    """Turns what a database driver raises in the block into StorageError. The driver never says the password."""
    from sqlalchemy.exc import DBAPIError

    if config.ablation.storage is None:
        yield
        return
    place = f"ablation.storage: {redact(config.ablation.storage)}"
    try:
        yield
    except ImportError as error:
        raise StorageError(f"{place}: needs psycopg, which is not installed; pip install 'dvfl[postgres]'") from error
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"{place}: {_reason(error)}") from None


def _reason(error: Any) -> str:
    """The database's own words, in one line, and what to do."""
    while getattr(error, "orig", None) is None and error.__cause__ is not None:
        error = error.__cause__
    said = redact(" ".join(str(getattr(error, "orig", None) or error).split()))
    if "password" in said:
        return f"refuses: {said}; set PGPASSWORD, or write the password into ~/.pgpass"
    return f"does not answer as it should: {said}; see that it runs, is reachable from here, and knows this database"
