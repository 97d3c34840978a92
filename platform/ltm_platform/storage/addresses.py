"""Addresses as they may be shown and recorded: parsed, and all left out that is not known to be
harmless."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

HIDDEN = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]*)(:\d{1,5})?")
_DATABASES = ("postgresql", "mysql", "mariadb", "mssql", "oracle")
"""Their addresses name a user; elsewhere what stands there is a key."""
_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
"""In the names of their objects an ``@`` is a letter like others."""
_HARMLESS = frozenset(
    {
        "allow_bucket_creation",
        "anonymous",
        "application_name",
        "charset",
        "check_directory_existence_before_creation",
        "connect_timeout",
        "driver",
        "enable_tls",
        "endpoint_override",
        "mode",
        "project_id",
        "region",
        "scheme",
        "sslmode",
        "sslrootcert",
        "timeout",
        "tls_ca_file_path",
        "uri",
    }
)
"""Keys of a query, of databases and of what pyarrow opens, whose values are no secrets."""
_VALUE = re.compile(r"[\w.:/\[\]-]*")


def shown(address: str) -> str:
    """Scheme, host, port, path and harmless parts of the query; for the rest ``***``.

    What cannot be told from a key is left out, too: of ``http://u:p/w@h`` nobody knows where its
    host begins, so that only what follows the last ``@`` is shown.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        if not re.search("[@?]", address):
            return address
        scheme, rest = "", address
    elif not _SCHEME.fullmatch(scheme):
        return HIDDEN
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    kind = scheme.lower().partition("+")[0]
    plain = bool(_HOST_PORT.fullmatch(place))
    letter = plain and ":" not in place and (kind in _BUCKETS or not place)
    keyed = "@" in rest and not letter
    if keyed:
        rest = rest.rpartition("@")[2]
        place = re.split(r"[/?#]", rest, maxsplit=1)[0]
        plain = bool(_HOST_PORT.fullmatch(place))
    if not plain:
        return f"{scheme}{mark}{HIDDEN}"
    parts = urlsplit(f"//{rest}", allow_fragments=bool(place))
    text = f"{scheme}{mark}{HIDDEN + '@' if keyed else ''}{place}{parts.path}"
    if parts.query:
        text += f"?{_query(parts.query)}"
    return text + (f"#{HIDDEN}" if parts.fragment else "")


def _query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    kept = [
        f"{key}={value}"
        for key, value in pairs
        if key.lower() in _HARMLESS and _VALUE.fullmatch(value)
    ]
    return "&".join([*kept, *[HIDDEN] * (len(kept) < len(pairs))])


def has_secret(address: str) -> bool:
    """Whether a part of it is not shown, which may be a key; a database's user alone is none."""
    if HIDDEN not in shown(address):
        return False
    scheme, _, rest = address.partition("://")
    user, mark, others = rest.partition("@")
    named = scheme.lower().partition("+")[0] in _DATABASES and re.fullmatch(r"[\w.-]+", user)
    return not (mark and named and not has_secret(f"{scheme}://{others}"))


def without_secrets(text: str, address: str) -> str:
    """What a library says of an address, as it may be shown."""
    bare = address.rstrip("/")
    return text.replace(bare, shown(bare)) if has_secret(address) else text
