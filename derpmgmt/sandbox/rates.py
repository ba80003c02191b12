"""How much a client may send through a sandbox relay: derper's own limit (derp/derpserver/derpserver.go, `RateConfig`)."""

import asyncio
import json
from dataclasses import dataclass

from containers.derp import frames, keys

# Its smallest bucket: the largest packet with its receiver's key.
SMALLEST_BURST = frames.MAX_PACKET_BYTES + keys.KEY_BYTES


@dataclass(frozen=True)
class RateConfig:
    """Bytes a second for each client, 0 = no limit, and how many at once."""

    rate: int = 0
    burst: int = 0

    @classmethod
    def read(cls, content: bytes) -> "RateConfig":
        """What the file says; keys that are unknown say nothing. Raises ValueError where Go's would not read it."""
        said = json.loads(content)
        if said is None:
            return cls()
        if not isinstance(said, dict):
            raise ValueError("json: cannot unmarshal into Go value of type derpserver.RateConfig")
        numbers = [said.get(name, 0) for name in ("PerClientRateLimitBytesPerSec", "PerClientRateBurstBytes")]
        if any(type(number) is not int or not 0 <= number < 2**64 for number in numbers):
            raise ValueError("json: cannot unmarshal into Go struct field of type uint64")
        rate, burst = numbers
        return cls(rate, max(burst, SMALLEST_BURST)) if rate else cls()

    @property
    def words(self) -> str:
        """What is logged when it is applied."""
        return f"rate config applied: client-rate={self.rate} bytes/sec, client-burst={self.burst} bytes"


class Limiter:
    """A client's bucket, full at first: a frame is read once there are as many bytes in it."""

    def __init__(self, config: RateConfig) -> None:
        self._config = config
        self._left = float(config.burst)
        self._at = asyncio.get_running_loop().time()

    async def take(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._left = min(self._left + (now - self._at) * self._config.rate, self._config.burst)
        self._at = now
        self._left -= min(size, SMALLEST_BURST)
        if self._left < 0:
            await asyncio.sleep(-self._left / self._config.rate)
