"""``python -m derpmgmt.sandbox --state DIR --servers N``: a sandbox fleet as a process of its own.

Writes DIR/hosts.json (how to reach the servers, 0600) and prints ``ready`` once all of them answer; ends on SIGTERM and
SIGINT. What is wrong with the servers is read from DIR/faults.json, at once whenever that changes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

from derpmgmt.sandbox.fleet import SUBNET, Fleet
from derpmgmt.sandbox.host import AddressTaken
from derpmgmt.sandbox.state import write_private


async def _serve(state_dir: Path, servers: int, subnet: str) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    hosts_path = state_dir / "hosts.json"
    hosts_path.unlink(missing_ok=True)
    fleet = Fleet(state_dir, servers, subnet=subnet)
    await fleet.open()
    try:
        write_private(
            hosts_path, json.dumps([host.as_json() for host in fleet.describe()], indent=1).encode()
        )
        print("ready", flush=True)
        await ended.wait()
    finally:
        with contextlib.suppress(FileNotFoundError):
            hosts_path.unlink()
        await fleet.close()


def main() -> int:
    """Run until a signal; 1 when an address is taken."""
    parser = argparse.ArgumentParser(
        prog="python -m derpmgmt.sandbox", description="A fleet of servers on loopback."
    )
    parser.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="folder for what the servers remember"
    )
    parser.add_argument("--servers", type=int, default=4, metavar="N", help="how many (default %(default)s)")
    parser.add_argument(
        "--subnet", default=SUBNET, help="first three numbers of their addresses (default %(default)s)"
    )
    options = parser.parse_args()
    try:
        asyncio.run(_serve(options.state, options.servers, options.subnet))
    except AddressTaken as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
