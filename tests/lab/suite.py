"""Runs tests on the lab as an operator's panel runs: real hosts, real derper, MariaDB and Redis. Arguments go to pytest.

What stands after `--beside` runs at the same time, with a MariaDB and a Redis of its own; what it says is told at its end.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from tests.lab.services import mariadb, redis

BESIDE = "--beside"


def run(arguments: list[str], *, is_told_later: bool) -> int:
    """pytest's own exit code."""
    with (
        mariadb() as database_url,
        redis() as redis_url,
        tempfile.TemporaryFile() as output,
    ):
        environment = os.environ | {
            "DERPMGMT_TEST_DATABASE_URL": database_url,
            "DERPMGMT_TEST_REDIS_URL": redis_url,
            "DERPMGMT_TEST_FLEET": "lab",
        }
        told = {"stdout": output, "stderr": output} if is_told_later else {}
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment, **told)
        output.seek(0)
        sys.stdout.write(output.read().decode(errors="replace"))
        sys.stdout.flush()
        return done.returncode


def main() -> int:
    """The first exit code that is not 0."""
    arguments = sys.argv[1:]
    if BESIDE not in arguments:
        return run(arguments, is_told_later=False)
    at = arguments.index(BESIDE)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run, arguments[at + 1 :], is_told_later=True)
        status = run(arguments[:at], is_told_later=False)
        return status or other.result()


if __name__ == "__main__":
    sys.exit(main())
