"""Environment variables that are sent along with a command: those known to hold no secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.storage.addresses import has_secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PASSED_ON = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "GLOO_SOCKET_IFNAME",
    "GOOGLE_CLOUD_PROJECT",
    "HF_ENDPOINT",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
)
"""Names that are sent along, if they are set here."""
HARMLESS = (
    *PASSED_ON,
    "AWS_PROFILE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "LANG",
    "MALLOC_ARENA_MAX",
    "PYTHONFAULTHANDLER",
    "PYTHONUNBUFFERED",
    "TORCH_HOME",
    "TZ",
    "XDG_CACHE_HOME",
)
HARMLESS_PREFIXES = (
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "DS_",
    "FI_",
    "GLOO_",
    "KMP_",
    "LC_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "PYTORCH_",
    "RAY_TRAIN_",
    "TORCHINDUCTOR_",
    "TORCH_",
    "TRITON_",
    "UCX_",
)
_SECRET = re.compile(
    r"TOKEN|SECRET|PASS|PWD|CRED|PRIVATE|KEY|AUTH|COOKIE|SESSION|SIGNATURE|CERT"
    r"|(^|_)(PAT|PIN|JWT|SAS|DSN|OTP|SALT)(_|$)|(DATABASE|DB|REDIS|MONGO|BROKER)\w*_UR[LI]"
    r"|CONNECTION_STRING",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def passed_on(further: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are sent along: `PASSED_ON` and ``further``, each a name that is known to
    be harmless, or ``NAME=VALUE`` whose value the user has written down.

    Raises:
        UserError: one is not set, no name, or may be a secret: the cluster shows them to all.
    """
    sent = {name: environment[name] for name in PASSED_ON if name in environment}
    for word in further:
        name, given, value = word.partition("=")
        _check_name(name, known=not given)
        if not given and name not in environment:
            raise UserError(f"--env is {name!r}, which is not set here")
        sent[name] = value if given else environment[name]
    for name, value in sent.items():
        if "://" in value and has_secret(value):
            raise UserError(
                f"the environment variable {name} is an address with a key in it, which everyone "
                f"who sees the cluster's dashboard would see: set it on the nodes instead"
            )
    return sent


def _check_name(name: str, *, known: bool) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"--env is {name!r}, but must be the name of an environment variable")
    harmless = name in HARMLESS or name.startswith(HARMLESS_PREFIXES)
    if _SECRET.search(name):
        raise UserError(
            f"--env is {name!r}, which looks like a secret: everyone who sees the cluster's "
            f"dashboard would see its value; set it on the nodes instead"
        )
    if known and not harmless:
        raise UserError(
            f"--env is {name!r}, which may be a secret, and everyone who sees the cluster's "
            f"dashboard would see its value: set it on the nodes, or write --env {name}=VALUE if "
            f"all may see it"
        )
