"""Which environment variables a cluster, and all who see its dashboard, are given."""

from __future__ import annotations

import pytest

from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.environment import passed_on

SECRETS = [
    "API_KEY",
    "APIKEY",
    "AUTH",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATABASE_URL",
    "DB_PASS",
    "GH_PAT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "PASSPHRASE",
    "PGPASSWORD",
    "REDIS_URL",
    "SENTRY_DSN",
]


def test_only_what_is_listed_or_asked_for_goes_along() -> None:
    environment = {"NCCL_DEBUG": "INFO", "NCCL_ALGO": "Ring", "HF_TOKEN": "x", "HOME": "/"}
    assert passed_on((), environment) == {"NCCL_DEBUG": "INFO"}
    assert passed_on(["NCCL_ALGO"], environment) == {"NCCL_DEBUG": "INFO", "NCCL_ALGO": "Ring"}
    assert passed_on(["MINE=a=b"], environment) == {"NCCL_DEBUG": "INFO", "MINE": "a=b"}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("given", ["", "=sesame"])
def test_what_looks_like_a_secret_does_not_go_along(name: str, given: str) -> None:
    with pytest.raises(UserError, match="looks like a secret") as refused:
        passed_on([f"{name}{given}"], {name: "sesame"})
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("MINE", r"may be a secret, .* or write --env MINE=VALUE"),
        ("NCCL_ALGO", "is not set here"),
        ("A B", "must be the name"),
        ("MINE=http://me:sesame@host", "MINE is an address with a key in it"),
    ],
)
def test_what_may_be_a_secret_does_not_go_along(word: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        passed_on([word], {"MINE": "sesame"})
    assert "sesame" not in str(refused.value)


def test_a_key_in_the_address_of_a_variable_that_is_always_sent_is_refused() -> None:
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL is an address with a key"):
        passed_on((), {"AWS_ENDPOINT_URL": "https://AK:SK@store"})
