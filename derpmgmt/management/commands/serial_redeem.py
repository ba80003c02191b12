import sys
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from acl.devices.services import close_window
from containers.decisions import SLOTS
from containers.models import Deployment, Relay
from containers.steps import name_steps
from derpmgmt.lib.commands import CommandRefused, PanelCommand
from derpmgmt.lib.refusals import Refusal
from serials.numbers import services
from serials.rentals.models import Redemption, Rental

WAIT_SECONDS = 300.0
# Some relays run, the others have no server: after this long without any work under way that is the result.
SETTLED_SECONDS = 10.0


class Command(PanelCommand):
    """Redeem a serial number for a customer, and wait until their relays are proven."""

    help: Any = gettext_lazy(
        "Redeem a serial number for a customer and wait until three relays carried a packet."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument(
            "code", metavar="CODE", help=_("the serial number; - reads it from standard input")
        )
        parser.add_argument("--no-wait", action="store_true", help=_("do not wait for the relays"))
        parser.add_argument(
            "--no-auto-enrol",
            action="store_true",
            help=_("approve no device automatically, not even right after the activation"),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._began = timezone.now()
        # Steps told so far, by deployment; one more once its end was told.
        self._told: dict[int, int] = {}
        user = User.objects.filter(email=options["email"].strip().lower()).first()
        if user is None:
            raise CommandError(
                _("There is no account with the address %(email)s.") % {"email": options["email"]}
            )
        code = sys.stdin.readline() if options["code"] == "-" else options["code"]
        redemption = self._redeem(code, user, is_closed=options["no_auto_enrol"])
        rental = redemption.rental
        if not options["no_wait"]:
            self._wait(rental)
        self._show(redemption, user)

    @staticmethod
    def _redeem(code: str, user: User, *, is_closed: bool) -> Redemption:
        """Redeem; with `is_closed` the window for new devices is shut in the same transaction, so it was never open."""
        if not is_closed:
            return services.redeem_serial(code=code, user=user, by=None)
        with transaction.atomic():
            try:
                redemption = services.redeem_serial(code=code, user=user, by=None)
            except Refusal as error:
                # Raised after the transaction: the log's entry about it is to stay.
                refusal = error
            else:
                close_window(rental=redemption.rental, by=None)
                return redemption
        raise refusal

    def _show(self, redemption: Redemption, user: User) -> None:
        rental = Rental.objects.get(pk=redemption.rental_id)
        relays = Relay.objects.wanted().filter(rental=rental).select_related("server")
        self.emit_one(
            {
                "email": user.email,
                "days": redemption.granted_seconds // 86400,
                "old_ends_at": redemption.old_ends_at,
                "new_ends_at": redemption.new_ends_at,
                # Later than the new end when waiting time was given back meanwhile.
                "ends_at": rental.ends_at,
                "running": sum(relay.status == Relay.Status.RUNNING for relay in relays),
                "relays": [
                    {
                        "id": relay.pk,
                        "server": relay.server.name,
                        "address": f"{relay.server.address}:{relay.derp_port}",
                        "status": relay.status,
                        "proven_at": relay.proven_at,
                    }
                    for relay in relays
                ],
            },
            {"email": _("Customer"), "days": _("Days"), "old_ends_at": _("Old end"), "ends_at": _("New end"),
             "running": _("Relays running")},
        )  # fmt: skip

    def _wait(self, rental: Rental) -> None:
        started = quiet_since = time.monotonic()
        while True:
            # Read before the logs: once a relay is seen to run, all its log says is told.
            relays = list(Relay.objects.wanted().filter(rental=rental).select_related("server"))
            self._tell_progress(rental)
            running = sum(relay.status == Relay.Status.RUNNING for relay in relays)
            if running == len(SLOTS):
                return
            if running == 0 or running < len(relays):
                quiet_since = time.monotonic()
            is_settled = time.monotonic() - quiet_since > SETTLED_SECONDS
            if is_settled or time.monotonic() - started > WAIT_SECONDS:
                raise self._refusal(rental, running, is_settled)
            time.sleep(0.2)

    def _tell_progress(self, rental: Rental) -> None:
        """Say which steps of the rental's deployments are over and how long they took, and how those ended that did."""
        deployments = Deployment.objects.filter(relay__rental=rental, relay__slot__isnull=False)
        for deployment in deployments.select_related("relay__server").order_by("pk"):
            if deployment.created_at < self._began and not deployment.is_open:
                continue
            steps = [step for step in name_steps(deployment.step_times(timezone.now())) if step.is_over]
            for step in steps[self._told.get(deployment.pk, 0) :]:
                self.say(f"{deployment.relay.server.name}: {step.label} · {step.duration}")
            if not deployment.is_open and self._told.get(deployment.pk, 0) < len(steps) + 1:
                # How it ended: the last line of its log, which has a failure's sentence.
                lines = deployment.log_lines()
                text = (lines[-1][2] if lines else "") or deployment.reason
                if text:
                    self.say(f"{deployment.relay.server.name}: {text}")
                self._told[deployment.pk] = len(steps) + 1
            elif deployment.is_open:
                self._told[deployment.pk] = len(steps)

    def _refusal(self, rental: Rental, running: int, is_settled: bool) -> CommandRefused:
        """Why there are fewer than three relays, in the words of what failed last."""
        count = {"running": running, "wanted": len(SLOTS)}
        text = _("The serial number is redeemed. Relays running: %(running)d of %(wanted)d.") % count
        failed = (
            Deployment.objects.filter(relay__rental=rental, status=Deployment.Status.FAILED)
            .order_by("pk")
            .last()
        )
        if failed is not None and failed.created_at >= self._began:
            return CommandRefused(
                f"{text}\n{failed.relay.server.name}: {failed.reason}",
                code=failed.error_code,
                details={**count, "server": failed.relay.server.name, "words": failed.detail},
            )
        if is_settled:
            code, why = (
                "too_few_servers",
                _("No further server is usable; the rest follows by itself as soon as one is."),
            )
        else:
            code, why = "relays_not_ready", _("Does a worker run? See “manage.py up”.")
        return CommandRefused(f"{text}\n{why}", code=code, details=count)
