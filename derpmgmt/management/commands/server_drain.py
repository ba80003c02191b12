from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.services.leaving import Leaving, drain_server, foresee_leaving, outcome_sentences
from derpmgmt.server_command import ServerCommand
from fleet import services


class Command(ServerCommand):
    """Drain a server, as the button on its page does."""

    help: Any = gettext_lazy(
        "Drain a server: nothing new is placed on it, and its relays are made on other servers, as far as there is room."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_name(parser)
        parser.add_argument("--reason", default="", help=_("why; operators read it at the server"))
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--dry-run", action="store_true", help=_("only tell what would become of its relays")
        )
        what.add_argument(
            "--undo", action="store_true",
            help=_("take it back into use; relays that have moved stay where they are"),
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        server = self.find_server(options["server"])
        leaving: list[Leaving] | None = []
        if options["undo"]:
            services.end_draining(server=server, by=None)
            said = _("%(server)s is in use again; relays that have moved stay where they are.")
        elif options["dry_run"]:
            leaving = foresee_leaving(server=server, now=timezone.now())
            said = _("Nothing was changed.")
        else:
            leaving = drain_server(server=server, by=None, reason=options["reason"])
            already, begun = _("%(server)s is being drained already."), _("%(server)s is being drained.")
            said = already if leaving is None else begun
        self.say(" ".join([said % {"server": server}, *outcome_sentences(leaving or [])]))
        server.refresh_from_db()
        relays = [_describe(relay) for relay in leaving or []]
        self.emit_one(
            {
                "id": server.pk,
                "name": server.name,
                "status": server.status,
                "state": server.get_status_display(),
                "reason": server.reason,
                "relays": relays,
            },
            {"name": _("Name"), "state": _("State"), "reason": _("Reason")},
        )
        self.emit_part(
            _("Relays"),
            relays,
            {"id": "ID", "email": _("Customer"), "to": _("Moves to"), "stays": _("Has nowhere to go")},
        )


def _describe(leaving: Leaving) -> dict[str, Any]:
    rental = leaving.relay.rental
    return {
        "id": leaving.relay.pk,
        "email": rental.user.email if rental else None,
        "to": leaving.to.name if leaving.to else None,
        "stays": leaving.stays,
    }
