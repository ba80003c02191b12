"""A demo that looks as a panel does after some weeks: run by `manage.py shell` in its folder."""

import random
from datetime import date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertDelivery, AlertRoute, AlertTelling
from accounts.models import User
from acl.devices.models import Device
from containers.metering import month_begin
from containers.models import Relay, RelayHealth, TrafficDay, TrafficHour, TrafficMonth, TrafficServerMonth
from containers.services.traffic import month_of
from derpmgmt.lib.sums import add_to_sums
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import (
    AdmissionFactory,
    AlertFactory,
    ChannelFactory,
    DeviceFactory,
    PutOffFactory,
    SerialBatchFactory,
    UserFactory,
)

NAMES = (
    "书房的 NAS",
    "MacBook Pro",
    "iPhone 小王",
    "办公室台式机",
    "杭州机房 web-1",
    "树莓派",
    "客厅 Apple TV",
)


def _key(dice: random.Random) -> str:
    return f"{dice.getrandbits(256):064x}"


def first_hour(day: date) -> int:
    """The hour since 1970 in which a day of the panel's begins."""
    return int(timezone.make_aware(datetime.combine(day, time())).timestamp()) // 3600


def seed_traffic(rental: Rental, relays: list[Relay], dice: random.Random) -> None:
    """A year of traffic, more of it on workdays and from month to month; added to what the demo's visits have counted."""
    today, now_hour = timezone.localdate(), int(timezone.now().timestamp()) // 3600
    rental.spans.update(quota_bytes=500 * 10**9, at_quota="throttle")
    for relay in relays:
        share = dice.uniform(0.2, 1)
        days = []
        for back in range(365):
            day = today - timedelta(days=back)
            gigabytes = (
                share
                * (3 + 4 * (365 - back) / 365)
                * (0.4 if day.weekday() > 4 else 1)
                * dice.uniform(0.5, 1.5)
            )
            if back == 0:
                gigabytes *= (now_hour - first_hour(day) + 1) / 24
            up = int(gigabytes * dice.uniform(0.25, 0.4) * 10**9)
            days.append(
                {"relay": relay.pk, "day": day, "up_bytes": up, "down_bytes": int(gigabytes * 10**9) - up}
            )
        both = ("up_bytes", "down_bytes")
        add_to_sums(TrafficDay, days, key=("relay", "day"), added=both)
        hours = [
            {"relay": relay.pk, "hour": hour}
            | {name: day[name] // min(24, now_hour - first_hour(day["day"]) + 1) for name in both}
            for day in days[:80]
            for hour in range(first_hour(day["day"]), first_hour(day["day"]) + 24)
            if hour <= now_hour
        ]
        add_to_sums(TrafficHour, hours, key=("relay", "hour"), added=both)
        whose = {"relay": relay.pk, "rental": rental.pk, "up_rate": 180_000.0, "down_rate": 2_400_000.0}
        months = [
            whose | day | {"begins_on": month_of(rental, day["day"]), "read_at": timezone.now()}
            for day in days
        ]
        rates = ("up_rate", "down_rate", "read_at")
        for month in months:
            add_to_sums(
                TrafficMonth, [month], key=("relay", "begins_on"), added=both, replaced=("rental", *rates)
            )
            begins_on = month_begin(relay.server.traffic_reset_day, month["day"])
            own = month | {"server": relay.server_id, "begins_on": begins_on}
            add_to_sums(TrafficServerMonth, [own], key=("server", "begins_on"), added=both, replaced=rates)


def seed_alerts(customer: User, servers: list[Server], now: datetime) -> None:
    """Alerts of every state, a rule that was changed, and routes of which one did not deliver; nothing is sent by them."""
    shop, night = (
        AlertRoute.objects.create(
            name=name, by=by, address=address, label=label, severity=severity, kinds=["certificate"]
        )
        for name, by, address, label, severity in (
            ("运维群", AlertRoute.By.PUSH, "wecombot://secret", "wecombot", "warning"),
            ("值班手机", AlertRoute.By.SMS, "+8613800000000", "+861••••••••00", "critical"),
        )
    )
    AlertRoute.objects.filter(pk=shop.pk).update(quiet_from=time(23), quiet_until=time(7), digest_at=time(9))
    AlertRule.objects.create(rule="disk", server=servers[0].pk, warning=70, critical=85)

    def alert(server: Server, minutes: int, **more: Any) -> Alert:
        began = now - timedelta(minutes=minutes)
        moments = {"since": began, "bad_since": began, "raised_at": began}
        # Nobody looks whether those are still so.
        place = {
            "name": server.name,
            "server": server.pk,
            "region": server.region_id,
            "source": Alert.Source.PERSON,
        }
        return AlertFactory(**place, **moments, **more)

    full = alert(servers[0], 34, rule="disk", severity="critical", values={"value": "91 %"})
    alert(servers[1], 12, rule="speed", kind="speed", values={"value": "940 Mbit/s"}, customer=customer)
    over = {"gone_at": now - timedelta(hours=3), "thing": "before"}
    alert(servers[0], 60 * 5, state=Alert.State.CLEARED, **over)
    alert(
        servers[2], 60 * 30, thing="dealt with", state=Alert.State.RESOLVED, resolved_at=now - timedelta(hours=20),
        resolved_by=User.objects.get(email="admin@example.com"), note="已清理旧镜像", gone_at=now - timedelta(hours=19),
    )  # fmt: skip
    lost = AlertDelivery.objects.create(
        route=shop, key="a", what="alerts", state="failed", tries=5, error="HTTP 500"
    )
    sent = AlertDelivery.objects.create(
        route=night, key="b", what="alerts", state="sent", sent_at=now, tries=1, instead_of=lost
    )
    for delivery in (lost, sent):
        AlertTelling.objects.create(
            alert=full, route=delivery.route, delivery=delivery, what="raised", severity="critical"
        )


def seed() -> None:
    """Devices, knocks, proofs and notices of the demo's customer, and other people and serial numbers around them."""
    dice = random.Random(7)
    now = timezone.now()
    customer = User.objects.get(email="customer@example.com")
    rental = Rental.objects.get(user=customer)
    for number, name in enumerate(NAMES):
        DeviceFactory(
            rental=rental,
            name=name,
            node_key=_key(dice),
            approved=True,
            approved_at=now - timedelta(days=number, hours=2),
            last_seen_at=now - timedelta(minutes=number),
        )
    for number in range(2):
        DeviceFactory(
            rental=rental, node_key=_key(dice), knocks=2, last_seen_at=now - timedelta(minutes=3 + number)
        )
    DeviceFactory(rental=rental, name="旧手机", node_key=_key(dice), status=Device.Status.REVOKED)
    relays = list(Relay.objects.filter(rental=rental).select_related("server"))
    for number in range(40):
        AdmissionFactory(
            relay=dice.choice(relays), node_key=_key(dice), at=now - timedelta(minutes=17 * number)
        )
    RelayHealth.objects.bulk_create(
        RelayHealth(
            relay=relay,
            at=now - timedelta(minutes=settings.PROOF_MINUTES * number),
            is_ok=(is_ok := dice.random() > 0.02),
            handshake_ms=dice.uniform(18, 34) if is_ok else None,
            packet_ms=dice.uniform(8, 15) if is_ok else None,
            stun_ms=dice.uniform(7, 14) if is_ok else None,
        )
        for relay in relays
        for number in range(1, 24 * 60 // settings.PROOF_MINUTES)
    )
    seed_traffic(rental, relays, dice)
    seed_alerts(customer, [relay.server for relay in relays], now)
    ChannelFactory(user=customer)
    for number in range(40):
        UserFactory(email=f"customer{number}@example.com", username=f"customer{number}")
    admin = User.objects.get(email="superadmin@example.com")
    SerialBatchFactory(name="双十一活动", count=30, days=90, by=admin)
    PutOffFactory(row=rental.pk)
