"""The admin's buttons at maps and live URLs."""

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.acts import Act, Doing
from acl.maps import services
from acl.maps.models import AclConfig, LiveUrl


def _renew(config: AclConfig, doing: Doing) -> str:
    made = services.renew_map(rental=config.rental, by=doing.by, ip=doing.ip)
    return _("Version %(version)s of the map of %(customer)s is made.") % {
        "version": made.version,
        "customer": config.rental,
    }


def _newest(config: AclConfig) -> str:
    pk = (
        AclConfig.objects.filter(rental=config.rental_id).order_by("-version").values_list("pk", flat=True)[0]
    )
    return reverse("admin:acl_aclconfig_change", args=[pk])


CONFIG_ACTS = (
    Act(
        verb="renew",
        label=gettext_lazy("Make a new version now"),
        explain=lambda config: [
            _("%(customer)s gets a new version of the map, valid from now. Their present map keeps working.")
            % {"customer": config.rental}
        ],
        run=_renew,
        after=_newest,
    ),
)


def _revoke(url: LiveUrl, doing: Doing) -> str | None:
    if not services.revoke_live_url(url=url, by=doing.by, ip=doing.ip):
        return None
    return _("The live URL of %(customer)s is revoked.") % {"customer": url.rental}


LIVE_URL_ACTS = (
    Act(
        verb="revoke",
        label=gettext_lazy("Revoke"),
        is_danger=True,
        fits=lambda url: url.revoked_at is None,
        otherwise=lambda _url: _("This live URL is revoked already."),
        explain=lambda url: [
            _("The live URL of %(customer)s stops at once and for good; the customer can make another one.")
            % {"customer": url.rental}
        ],
        run=_revoke,
    ),
)
