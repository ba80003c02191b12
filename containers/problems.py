"""What may go wrong with a relay beside what its server says. Loaded with the app, so that every process can explain it."""

from django.utils.translation import gettext_lazy as _

from containers.derp.probe import CAUSES
from derpmgmt.lib.problems import declare
from fleet.ssh import RemoteError

declare(CAUSES)
declare(
    {
        "stun_stays_stale": _(
            "Made anew, the relay still gives no STUN answer to devices that used it before and go on sending from the same port; they are "
            "answered again once they pause for half a minute. All other devices are answered. Install the program conntrack on the server, "
            "where the panel signs in as root, or a newer Docker Engine: then these are led right too."
        )
    }
)
# Not a problem, but a line of the log that is stored in the same form.
declare({"proven": _("Handshake %(handshake)s ms, packet %(packet)s ms")})


class ServerResting(RemoteError):
    """The server did not answer lately and is left alone for a while."""

    code = "server_resting"
    sentence = _("The server did not answer lately; it is tried again in a while.")


class ContainerStopped(RemoteError):
    """A relay's or gate's container did not stay up after its start; `detail` is the end of its log."""

    code = "crashed"
    sentence = _("The relay stopped right after its start.")
    gate_sentence = _("The gate stopped right after its start.")


class ProbeFailed(RemoteError):
    """The relay runs but did not carry a packet; the code is the test's cause."""

    code = "probe_failed"
