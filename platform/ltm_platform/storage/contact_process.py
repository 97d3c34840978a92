"""Asks a store for one address: run as a script by `ltm_platform.storage.contact`, which ends it
when there is no answer. Needs pyarrow alone."""

from __future__ import annotations

import json
import sys

from pyarrow import fs


def main() -> None:
    """Read an address, write ``ready``, then what pyarrow says is wrong, or null, each as JSON."""
    # Not an argument, which all users of the machine would see.
    address = json.loads(sys.stdin.readline())
    print(json.dumps("ready"), flush=True)
    problem = None
    try:
        ask(address)
    except Exception as error:  # whatever a store makes pyarrow raise
        problem = str(error) or type(error).__name__
    print(json.dumps(problem), flush=True)


def ask(address: str) -> None:
    """Raises: Exception: the store does not answer, refuses, or has no such bucket."""
    filesystem, path = fs.FileSystem.from_uri(address)
    bucket, _, key = path.partition("/")
    # Of a bucket that is not there, all is just not found: it is asked for by itself.
    for asked in (path, bucket) if key else (path,):
        if filesystem.get_file_info(asked).type != fs.FileType.NotFound:
            return
    if bucket and filesystem.type_name in ("s3", "gcs", "abfs"):
        raise FileNotFoundError("NoSuchBucket")


if __name__ == "__main__":
    main()
