"""What operators said about the limits of one customer, or of one relay, and how much of its traffic is used: fields of both."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.lines import LineField

# What may be said in one place; empty says nothing there, and 0 that there is no limit (`containers.allowances`).
CAP_FIELDS = ("cap_up_bytes", "cap_down_bytes", "cap_both_bytes", "cap_rate", "cap_at_quota")


class AtQuota(models.TextChoices):
    """What happens at the end of a month's traffic."""

    NOTHING = "nothing", _("nothing happens")
    THROTTLE = "throttle", _("slow down")
    STOP = "stop", _("stop")


class Limited(models.Model):
    """Something whose traffic may have an end: what was said about that here, and what came of it.

    `traffic_state` is how much is used, `stopped_at` since when it is stopped because all is used. Both are verdicts of the room that counts,
    which writes them down here for all that follow.
    """

    class TrafficState(models.TextChoices):
        FINE = "fine", _("traffic left")
        NEAR = "near", _("little traffic left")
        OVER = "over", _("traffic used up")

    cap_up_bytes = models.BigIntegerField(_("traffic up a month"), null=True, blank=True, editable=False)
    cap_down_bytes = models.BigIntegerField(_("traffic down a month"), null=True, blank=True, editable=False)
    cap_both_bytes = models.BigIntegerField(_("traffic a month"), null=True, blank=True, editable=False)
    cap_rate = models.BigIntegerField(_("rate limit"), null=True, blank=True, editable=False)
    cap_at_quota = models.CharField(
        _("at the allowance"), max_length=8, choices=AtQuota, blank=True, default="", editable=False
    )
    cap_note = LineField(_("note on the limits"), max_length=200, blank=True, default="", editable=False)
    traffic_state = models.CharField(
        _("traffic this month"),
        max_length=4,
        choices=TrafficState,
        default=TrafficState.FINE,
        editable=False,
    )
    stopped_at = models.DateTimeField(
        _("stopped, traffic used up"), null=True, blank=True, db_index=True, editable=False
    )

    class Meta:
        abstract = True
