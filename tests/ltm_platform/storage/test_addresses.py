"""What is shown of an address holds no key, wherever in it one may stand."""

from __future__ import annotations

import pytest

from ltm_platform.errors import UserError
from ltm_platform.storage import addresses
from ltm_platform.storage.locations import shown
from ltm_platform.storage.path import storage_path

KEYS = {
    "postgresql://me:secret@db/mlflow": "postgresql://***@db/mlflow",
    "postgresql+psycopg://me:se:cret@db:5432/mlflow": "postgresql+psycopg://***@db:5432/mlflow",
    "mysql://me:s%65cret@db/mlflow": "mysql://***@db/mlflow",
    "http://:secret@host:5000": "http://***@host:5000",
    "http://me:secret@host:5000/path": "http://***@host:5000/path",
    "http://me:sec/ret@host": "http://***@host",
    "http://me:12/secret@host": "http://***@host",
    "http://me:sec ret@host": "http://***@host",
    "http://me:sec?ret@host": "http://***@host",
    "http://me:sec#ret@host": "http://***@host",
    "http://me:secr@et@host": "http://***@host",
    "http://me:secret%40host": "http://***",
    "http://secret@host": "http://***@host",
    "http://host:5000?token=secret": "http://host:5000?***",
    "http://host:5000/a?api_key=secret": "http://host:5000/a?***",
    "http://host:5000#secret": "http://host:5000#***",
    "s3://AK:SEC/RETsecret@bucket/runs": "s3://***@bucket/runs",
    "s3://AK:secret@bucket/runs": "s3://***@bucket/runs",
    "s3://bucket/runs?access_key=AK&secret_key=secret&region=eu": (
        "s3://bucket/runs?region=eu&***"
    ),
    "s3://bucket?endpoint_override=http://me:secret@host": "s3://bucket?***",
    "postgresql://db/mlflow?user=me&password=secret&sslmode=require": (
        "postgresql://db/mlflow?sslmode=require&***"
    ),
    "ht tp://secret@host": "***",
    "secret@host:6379": "***@host:6379",
}
HARMLESS = [
    "sqlite:////data/mlflow.db",
    "sqlite:////my data/größe #1/a@b/mlflow.db",
    "sqlite:///file:mlflow.db",
    "http://host:5000",
    "https://[::1]:5000/mlflow",
    "s3://bucket/runs@2026/a b?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
    "gs://bucket/runs",
    "postgresql://db:5432/mlflow?sslmode=require",
    "10.0.0.1:6379",
    "auto",
    "nowhere at all",
]


@pytest.mark.parametrize("address", KEYS)
def test_a_key_in_an_address_is_not_shown(address: str) -> None:
    assert addresses.shown(address) == KEYS[address]
    assert addresses.has_secret(address)
    if "://" in address:
        assert shown(address) == KEYS[address]
        assert addresses.without_secrets(f"no {address}/x", address) == f"no {KEYS[address]}/x"


@pytest.mark.parametrize("address", HARMLESS)
def test_an_address_without_a_key_is_shown_as_it_is(address: str) -> None:
    assert addresses.shown(address) == address
    assert not addresses.has_secret(address)
    assert addresses.without_secrets(address, address) == address


def test_a_databases_user_is_no_key() -> None:
    assert not addresses.has_secret("postgresql://me@db/mlflow")
    assert addresses.shown("postgresql://me@db/mlflow") == "postgresql://***@db/mlflow"


def test_a_key_in_an_address_that_cannot_be_opened_is_not_shown() -> None:
    for address in ("s3://AK:SEC/RETsecret@b", "nothing://me:secret@host/runs"):
        with pytest.raises(UserError) as refused:
            storage_path(address)
        assert "secret" not in str(refused.value)
