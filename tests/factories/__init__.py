"""Rows to test with, as the product makes them: where a service makes a thing, its factory calls the service.

`RentalFactory(days=3)` makes one, `RentalFactory.create_batch(3)` several. What is special about a row is said by the names in its
factory's `Params`.
"""

from tests.factories.devices import (
    AclEventFactory,
    AddedDeviceFactory,
    AdmissionFactory,
    DeviceFactory,
    DevicePolicyFactory,
    LiveUrlFactory,
    MapRegionFactory,
    ServedRentalFactory,
    WholeRentalFactory,
)
from tests.factories.people import (
    PASSWORD,
    AlertFactory,
    ChannelFactory,
    NoticeFactory,
    PutOffFactory,
    UserFactory,
    UserSessionFactory,
)
from tests.factories.relays import (
    DeploymentFactory,
    GateFactory,
    RelayFactory,
    RelayHealthFactory,
    ServerCheckFactory,
)
from tests.factories.rentals import (
    RedeemedRentalFactory,
    RedemptionFactory,
    RentalFactory,
    RentalSpanFactory,
    SerialBatchFactory,
    SerialNumberFactory,
)
from tests.factories.servers import ProviderAccountFactory, RegionFactory, ServerFactory, SshCredentialFactory

__all__ = [
    "PASSWORD",
    "AclEventFactory",
    "AddedDeviceFactory",
    "AdmissionFactory",
    "AlertFactory",
    "ChannelFactory",
    "DeploymentFactory",
    "DeviceFactory",
    "DevicePolicyFactory",
    "GateFactory",
    "LiveUrlFactory",
    "MapRegionFactory",
    "NoticeFactory",
    "ProviderAccountFactory",
    "PutOffFactory",
    "RedeemedRentalFactory",
    "RedemptionFactory",
    "RegionFactory",
    "RelayFactory",
    "RelayHealthFactory",
    "RentalFactory",
    "RentalSpanFactory",
    "SerialBatchFactory",
    "SerialNumberFactory",
    "ServedRentalFactory",
    "ServerCheckFactory",
    "ServerFactory",
    "SshCredentialFactory",
    "UserFactory",
    "UserSessionFactory",
    "WholeRentalFactory",
]
