"""People."""

from datetime import timedelta
from typing import Any

import factory
from allauth.usersessions.models import UserSession
from django.utils import timezone

from accounts import services
from accounts.alerts.models import Alert
from accounts.alerts.rules import Kind
from accounts.models import Channel, Notice, PutOff, User
from derpmgmt.lib.crypto import keyed_hash
from tests.factories.base import RowFactory, ServiceFactory

PASSWORD = "quiet-river-42"


class UserFactory(ServiceFactory[User]):
    """An account with a confirmed address and `PASSWORD`."""

    class Meta:
        model = User

    email = factory.Sequence(lambda n: f"person{n}@example.com")
    password = PASSWORD

    @classmethod
    def _make(cls, **fields: Any) -> User:
        asked = {name: fields.pop(name) for name in {"email", "username", "password", "role"} & fields.keys()}
        user = services.create_user(**asked)
        if fields:
            for name, value in fields.items():
                setattr(user, name, value)
            user.save()
        return user


class ChannelFactory(RowFactory[Channel]):
    """A push service on somebody's phone, which they have confirmed."""

    class Meta:
        model = Channel

    kind = Channel.Kind.PUSH
    label = "bark"
    address = "bark://key"
    address_hash = factory.LazyAttribute(lambda channel: keyed_hash("channel", channel.address))
    confirmed_at = factory.LazyFunction(timezone.now)


class NoticeFactory(RowFactory[Notice]):
    class Meta:
        model = Notice

    language = "en"


class AlertFactory(RowFactory[Alert]):
    """Something that is wrong with a server since just now."""

    class Meta:
        model = Alert

    kind = Kind.DISK
    rule = "disk"
    thing = factory.Sequence(lambda n: f"server:{n}")
    source = Alert.Source.READING
    severity = "warning"
    state = Alert.State.ACTIVE
    name = "web-1"
    values = factory.LazyFunction(lambda: {"value": "90 %"})
    since = bad_since = seen_at = looked_at = raised_at = factory.LazyFunction(timezone.now)


class UserSessionFactory(RowFactory[UserSession]):
    """A browser in which somebody signed in just now."""

    class Meta:
        model = UserSession

    ip = "203.0.113.7"
    session_key = factory.Sequence(lambda n: f"session {n}")
    created_at = factory.LazyFunction(timezone.now)
    last_seen_at = factory.SelfAttribute("created_at")


class PutOffFactory(RowFactory[PutOff]):
    """What a sweep put off of a row, since its work raised."""

    class Meta:
        model = PutOff
        django_get_or_create = ("work", "row")

    work = "reminders"
    failure_code = "internal"
    exception = "ValueError"
    try_after = factory.LazyFunction(lambda: timezone.now() + timedelta(minutes=9))
