"""Credentials never get out."""

import pytest

from dvfl.track import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:///results/mlflow.db", "sqlite:///results/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:s3cret@mlflow.org/x", "https://***@mlflow.org/x"),
        ("https://s3cret@mlflow.org", "https://***@mlflow.org"),
        (
            "postgresql+psycopg2://me:s3/c@ret@host:5432/db",
            "postgresql+psycopg2://***@host:5432/db",
        ),
        ("at http://a:s3cret@h, then http://b:s3cret@i", "at http://***@h, then http://***@i"),
        ("mysql://h/db?password=s3cret&x=1", "mysql://h/db?password=***&x=1"),
        ("https://h/?a=1&api_key=s3cret'", "https://h/?a=1&api_key=***'"),
        ("https://h/?access_token=s3cret", "https://h/?access_token=***"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown
