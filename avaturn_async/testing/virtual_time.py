"""Time that advances only while tasks sleep."""

from __future__ import annotations

from attrs import define, field


@define(kw_only=True)
class VirtualTime:
    """A clock, and a sleep that takes no time but moves that clock: ``FakeAvaturn(clock=…, sleep=…)``.

    ::

        virtual = VirtualTime()
        FakeAvaturn(clock=virtual.time, sleep=virtual.sleep)
    """

    now: float = 0.0
    """Seconds; may be set."""
    slept: list[float] = field(factory=list[float])
    """The seconds of each sleep, in the order in which they began."""

    def time(self) -> float:
        """The time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.slept.append(seconds)
        self.now += seconds
