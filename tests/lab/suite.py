"""Runs tests on the lab as an operator's panel runs: real hosts, real derper, MariaDB and Redis. Arguments go to pytest."""

import os
import subprocess
import sys

from tests.lab.services import mariadb, redis


def main() -> int:
    """pytest's own exit code."""
    with mariadb() as database_url, redis() as redis_url:
        environment = os.environ | {
            "DERPMGMT_TEST_DATABASE_URL": database_url,
            "DERPMGMT_TEST_REDIS_URL": redis_url,
            "DERPMGMT_TEST_FLEET": "lab",
        }
        return subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
