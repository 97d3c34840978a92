"""What a cluster starts: the command that was sent there, see `ray_cluster.jobs_api`."""

from __future__ import annotations

import os
import sys

from ltm_platform.cli.app import main
from ltm_platform.ray_cluster.jobs_api import Request, arguments
from ltm_platform.temporary import temporary_folder

if __name__ == "__main__":
    request = Request.here()
    if request is None:
        sys.exit("there is no command to run")
    with temporary_folder("ltm-request-") as folder:
        os.chdir(folder)  # so that errors name the job file alone
        main(arguments(request, folder))
