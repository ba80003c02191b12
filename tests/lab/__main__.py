"""`python -m tests.lab up|down|status`: the lab by hand."""

import argparse
import sys
from pathlib import Path

from tests.lab.hosts import STATE, Lab
from tests.lab.kinds import ROOTLESS
from tests.lab.parts import LabError


def main() -> int:
    """Does what the arguments say; the status is 0 when it is done, for `status` when every host answers."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--state", type=Path, default=STATE, help="the lab's folder (default: %(default)s)")
    parser.add_argument("--hosts", type=int, default=3, help="how many hosts (default: %(default)s)")
    parser.add_argument("--rootless", action="store_true", help="one more, whose Docker is rootless")
    options = parser.parse_args()
    lab = Lab(options.state)
    try:
        if options.action == "up":
            lab.up(options.hosts)
            if options.rootless:
                lab.add(ROOTLESS)
        elif options.action == "down":
            lab.down()
    except (LabError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    hosts = lab.hosts
    up = [host.is_up for host in hosts]
    for host, answers in zip(hosts, up, strict=True):
        print(f"{host.name}  {host.address}:{host.ssh_port}  {'up' if answers else 'down'}")
    if not hosts:
        print("no lab")
    return 0 if options.action == "down" or (hosts and all(up)) else 1


sys.exit(main())
