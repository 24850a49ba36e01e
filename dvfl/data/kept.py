"""Rows that long work writes one by one and finds again when it was killed, or is done anew: SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from dvfl.data.errors import DataError
from dvfl.files import OutputError

PATIENCE = 60.0  # seconds to wait for another process that writes the same file


@contextmanager
def kept_rows(file: Path, made_of: str, columns: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """A file's table `readings`, whose first column is its key; empty where it is new, or `made_of` other things.

    Raises DataError where the file is damaged, and OutputError where it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Each statement is a transaction, so a kill loses none; a crash of the whole machine may cost the file.
        with closing(sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)) as store:
            store.execute("PRAGMA synchronous = OFF")
            store.execute("CREATE TABLE IF NOT EXISTS made_of (text TEXT)")
            if store.execute("SELECT text FROM made_of").fetchall() != [(made_of,)]:
                store.execute("DROP TABLE IF EXISTS readings")
                store.execute("DELETE FROM made_of")
            named = f"{', '.join(columns)}, PRIMARY KEY ({columns[0]})"
            store.execute(f"CREATE TABLE IF NOT EXISTS readings ({named}) WITHOUT ROWID")
            store.execute("INSERT INTO made_of SELECT ? WHERE NOT EXISTS (SELECT * FROM made_of)", (made_of,))
            yield store
    except sqlite3.OperationalError as error:
        raise OutputError(f"cannot write {file}: {error}; mend that, then run the same command again") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{file}: is damaged ({error}); remove it and run the same command again") from error
