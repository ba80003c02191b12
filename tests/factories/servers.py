"""Servers and what they stand in."""

import factory
from django.utils import timezone

from fleet.models import ProviderAccount, Region, Server, SshCredential
from tests.factories.base import RowFactory
from tests.panel.running import free_port

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
CITIES = {"sh": ("上海", "Shanghai"), "gz": ("广州", "Guangzhou"), "bj": ("北京", "Beijing")}


class RegionFactory(RowFactory[Region]):
    """The region with that code, Shanghai unless told, or with `new` one that nobody has seen before."""

    class Meta:
        model = Region
        django_get_or_create = ("code",)

    class Params:
        new = factory.Trait(code=factory.Sequence(lambda n: f"r{n}"))

    code = "sh"
    name_zh = factory.LazyAttribute(lambda region: CITIES.get(region.code, (f"区域{region.code}", ""))[0])
    name_en = factory.LazyAttribute(lambda region: CITIES.get(region.code, ("", f"Region {region.code}"))[1])


class SshCredentialFactory(RowFactory[SshCredential]):
    """The credential that servers share unless told."""

    class Meta:
        model = SshCredential
        django_get_or_create = ("name",)

    class Params:
        new = factory.Trait(name=factory.Sequence(lambda n: f"key {n}"))

    name = "key"


class ProviderAccountFactory(RowFactory[ProviderAccount]):
    class Meta:
        model = ProviderAccount

    provider = "aliyun"
    name = factory.Sequence(lambda n: f"a{n}")
    phone = "13800001234"


class ServerFactory(RowFactory[Server]):
    """A server that is being added.

    `healthy`: its host key is confirmed, and it was visited just now. `whole`: that, with a region, a credential and a provider
    account of its own; nothing listens there.
    """

    class Meta:
        model = Server

    class Params:
        healthy = factory.Trait(
            status=Server.Status.HEALTHY, host_key=HOST_KEY, last_visit_at=factory.LazyFunction(timezone.now)
        )
        whole = factory.Trait(
            healthy=True,
            region=factory.SubFactory(RegionFactory, new=True),
            credential=factory.SubFactory(SshCredentialFactory, new=True),
            provider_account=factory.SubFactory(ProviderAccountFactory),
            ssh_host="127.0.0.1",
            ssh_port=factory.LazyFunction(free_port),
        )

    name = factory.Sequence(lambda n: f"s{n}")
    region = factory.SubFactory(RegionFactory)
    credential = factory.SubFactory(SshCredentialFactory)
    address = factory.Sequence(lambda n: f"203.0.{n // 250}.{n % 250 + 1}")
