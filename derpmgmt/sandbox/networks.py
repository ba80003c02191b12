"""The networks of one server: names that containers must find. The relays themselves listen on the server's address."""

from __future__ import annotations

from typing import Any

from derpmgmt.sandbox.refusals import Refusal
from derpmgmt.sandbox.state import State, new_id

PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
_DRIVERS = ("bridge", "host", "null", "ipvlan", "macvlan")


class Networks:
    """Kept in the state by id, as the Engine shows them, without ``Containers``."""

    def __init__(self, state: State, now: str) -> None:
        self._state = state
        self._all: dict[str, dict[str, Any]] = state.networks
        for name, driver in PREDEFINED.items():
            if not self._find(name):
                self._add(name, driver, {}, now)

    def create(self, body: dict[str, Any], now: str) -> dict[str, Any]:
        """Raises Refusal when the name is taken or the driver unknown."""
        name, driver = str(body.get("Name", "")), body.get("Driver") or "bridge"
        if self._find(name):
            raise Refusal(409, f"network with name {name} already exists")
        if driver not in _DRIVERS:
            raise Refusal(404, f'plugin "{driver}" not found')
        network = self._add(name, driver, body.get("Labels") or {}, now)
        self._state.save()
        return {"Id": network["Id"], "Warning": ""}

    def find(self, reference: str) -> dict[str, Any]:
        """By name, id or the beginning of an id. Raises Refusal when there is none."""
        network = self._find(reference)
        if network is None:
            raise Refusal(404, f"network {reference} not found")
        return network

    def select(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        """Raises Refusal for a filter that the Engine does not know."""
        for key in filters:
            if key not in ("name", "id", "label", "driver", "scope", "type", "dangling"):
                raise Refusal(400, f"Invalid filter '{key}'")
        found = []
        for network in self._all.values():
            wanted = [label.partition("=") for label in filters.get("label", ())]
            labels = network["Labels"]
            if any(key not in labels or (equals and labels[key] != value) for key, equals, value in wanted):
                continue
            if "name" in filters and not any(part in network["Name"] for part in filters["name"]):
                continue
            if "driver" in filters and network["Driver"] not in filters["driver"]:
                continue
            found.append(network | {"Containers": {}})
        return found

    def delete(self, reference: str, *, in_use: bool) -> None:
        """Raises Refusal when there is none, or a running container is on it."""
        network = self.find(reference)
        name = network["Name"]
        if name in PREDEFINED:
            raise Refusal(403, f"{name} is a pre-defined network and cannot be removed")
        if in_use:
            words = f"network {name} id {network['Id']} has active endpoints"
            raise Refusal(403, f"error while removing network: {words}")
        del self._all[network["Id"]]
        self._state.save()

    def _find(self, reference: str) -> dict[str, Any] | None:
        for network in self._all.values():
            if network["Name"] == reference:
                return network
        return next(
            (item for key, item in self._all.items() if reference and key.startswith(reference)), None
        )

    def _add(self, name: str, driver: str, labels: dict[str, str], now: str) -> dict[str, Any]:
        network_id = new_id()
        taken = {
            network["IPAM"]["Config"][0]["Subnet"]
            for network in self._all.values()
            if network["IPAM"]["Config"]
        }
        number = next(number for number in range(17, 256) if f"172.{number}.0.0/16" not in taken)
        pool = (
            [{"Subnet": f"172.{number}.0.0/16", "Gateway": f"172.{number}.0.1"}] if driver == "bridge" else []
        )
        self._all[network_id] = {
            "Name": name,
            "Id": network_id,
            "Created": now,
            "Scope": "local",
            "Driver": driver,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": pool},
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Options": {},
            "Labels": labels,
        }
        return self._all[network_id]
