"""Runs tests on the lab as an operator's panel runs: real hosts, real derper, MariaDB and Redis. Arguments go to pytest.

`--beside` parts the arguments into runs of pytest that go on at the same time, each with a MariaDB, a Redis and a lab of its own;
what the first says is told at once, what the others say at their end.
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
        tempfile.TemporaryDirectory(prefix="derpmgmt-lab-") as lab,
        tempfile.TemporaryFile() as output,
    ):
        environment = os.environ | {
            "DERPMGMT_TEST_DATABASE_URL": database_url,
            "DERPMGMT_TEST_REDIS_URL": redis_url,
            "DERPMGMT_TEST_FLEET": "lab",
            "DERPMGMT_TEST_LAB": f"{lab}/hosts",
        }
        told = {"stdout": output, "stderr": output} if is_told_later else {}
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment, **told)
        output.seek(0)
        sys.stdout.write(output.read().decode(errors="replace"))
        sys.stdout.flush()
        return done.returncode


def main() -> int:
    """The first exit code that is not 0."""
    runs: list[list[str]] = [[]]
    for word in sys.argv[1:]:
        if word == BESIDE:
            runs.append([])
        else:
            runs[-1].append(word)
    with ThreadPoolExecutor(len(runs)) as pool:
        codes = [
            pool.submit(run, arguments, is_told_later=number > 0) for number, arguments in enumerate(runs)
        ]
        return next((code for done in codes if (code := done.result())), 0)


if __name__ == "__main__":
    sys.exit(main())
