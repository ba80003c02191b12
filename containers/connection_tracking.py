"""What a host's kernel remembers of flows to a relay that was away for a moment (docs/engines.md)."""

from contextlib import suppress

from fleet.engine import Engine
from fleet.ssh import RemoteError


def forget_flows(engine: Engine, stun_port: int) -> None:
    """Have the host lead those anew who go on asking a STUN port that was published a moment ago.

    While it was not, their packets were the host's own, and each further one lets the kernel's connection tracking think so for 30 s
    more (120 s once Docker's proxy has answered, which tells them a private address). Docker 20.10 forgets no such flow. The program
    conntrack does, where it is installed and the user is root; else nothing happens here. A flow that was led well begins anew.

    An answer of the proxy's that was on its way at that moment begins a flow from the host to who asked, and what they ask next counts
    as its reply: those go too, once that has passed.
    """
    forget = (
        f"conntrack -D -p udp --orig-port-dst {stun_port}; conntrack -D -p udp --orig-port-src {stun_port}"
    )
    script = f"PATH=$PATH:/usr/sbin:/sbin; (command -v conntrack && {{ {forget}; sleep 0.2 || sleep 1; {forget}; }}) >/dev/null 2>&1; :"
    with suppress(RemoteError):  # one that is lost is found by what comes next
        engine.connection.run(script)
