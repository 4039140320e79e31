"""Circuit breakers: a model that keeps failing is left out for a while, then tried by one request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

NEWS_S = 1.0


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`failures` in a row open a breaker for `open_s`, twice as long after each failed trial, up to `max_open_s`."""

    failures: int = 5
    open_s: float = 15.0
    max_open_s: float = 240.0


@dataclass(frozen=True, slots=True)
class Outage:
    """That a model is left out, as routers tell each other: for so many seconds more."""

    seconds: float
    limited: bool = False
    """Whether for a pause that the provider asked for, rather than for failures."""


class Breaker:
    """Of one model. Closed: requests pass. Open: none do. Half-open: one does, and what becomes of it decides.

    Times are those of the caller's clock, in seconds; `began` is when a request was admitted.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._opened_at = 0.0
        self._open_until: float | None = None
        self._open_s = 0.0
        self._trying = False
        self.limited = False
        """Whether it was left out for a pause that the provider asked for, rather than for failures."""

    def state(self, now: float) -> str:
        """`closed`, `open` or `half-open`."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether a request may go there; in a half-open one it is the trial, and must be told how it ended."""
        state = self.state(now)
        if state == "half-open" and not self._trying:
            self._trying = True
            return True
        return state == "closed"

    def left_out_for(self, now: float) -> float:
        """Seconds until it may be tried."""
        return max(0.0, (self._open_until or now) - now)

    def answers(self, began: float) -> None:
        """The trial's answer has begun, and may take long: no reason to keep others waiting for its end.

        Should it break off nevertheless, that is one failure more in the row, and opens the breaker again.
        """
        if self._trying and not self._is_late(began):
            self._open_until, self._trying, self.limited = None, False, False

    def succeeded(self, began: float) -> None:
        if self._is_late(began):
            return
        self._failures, self._open_until, self._open_s = 0, None, 0.0
        self._trying = self.limited = False

    def failed(self, began: float, now: float, policy: BreakerPolicy) -> None:
        if self._is_late(began):
            return
        self._failures += 1
        if self._trying or self._failures >= policy.failures:
            self._open_s = min(policy.max_open_s, self._open_s * 2 or policy.open_s)
            self.leave_out(now, now + self._open_s, limited=False)

    def said_nothing(self, began: float) -> None:
        """The request ended without telling how the model is: the caller left, or was at fault."""
        if not self._is_late(began):
            self._trying = False

    def leave_out(self, now: float, until: float, *, limited: bool) -> None:
        """At least until then, whatever else is known."""
        self._trying = False
        self.limited = limited
        self._opened_at = now
        self._open_until = max(until, self._open_until or until)

    def _is_late(self, began: float) -> bool:
        """Whether the request that ends now began before the breaker opened: its end is no news."""
        return began < self._opened_at or (self._open_until is not None and not self._trying)


class Breakers:
    """One for each model that has failed, of one router; for one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def of(self, model: str) -> Breaker:
        """By a configured name, of which there are few."""
        return self._breakers.setdefault(model, Breaker())

    def admits(self, model: str) -> bool:
        breaker = self._breakers.get(model)
        return breaker is None or breaker.admits(self._clock())

    def may_admit(self, model: str) -> bool:
        """Whether a request that came there now would probably be admitted; changes nothing."""
        breaker = self._breakers.get(model)
        return breaker is None or breaker.state(self._clock()) != "open"

    def left_out_for(self, model: str) -> float:
        """Seconds until it may be tried."""
        breaker = self._breakers.get(model)
        return 0.0 if breaker is None else breaker.left_out_for(self._clock())

    def answers(self, model: str, began: float) -> None:
        if model in self._breakers:
            self._breakers[model].answers(began)

    def succeeded(self, model: str, began: float) -> None:
        if model in self._breakers:
            self._breakers[model].succeeded(began)

    def failed(self, model: str, began: float, policy: BreakerPolicy) -> None:
        self.of(model).failed(began, self._clock(), policy)

    def leave_out(self, model: str, seconds: float, *, limited: bool = False) -> None:
        now = self._clock()
        self.of(model).leave_out(now, now + seconds, limited=limited)

    def limited(self, model: str) -> bool:
        """Whether it is left out for a pause that its provider asked for."""
        breaker = self._breakers.get(model)
        return breaker is not None and breaker.limited

    def said_nothing(self, model: str, began: float) -> None:
        if model in self._breakers:
            self._breakers[model].said_nothing(began)

    def states(self) -> dict[str, str]:
        now = self._clock()
        return {model: breaker.state(now) for model, breaker in self._breakers.items()}

    def outages(self) -> dict[str, Outage]:
        """Models that are left out: what other routers should know."""
        now = self._clock()
        left = {model: Outage(one.left_out_for(now), one.limited) for model, one in self._breakers.items()}
        return {model: outage for model, outage in left.items() if outage.seconds > 0}

    def hear(self, outages: Mapping[str, Outage]) -> None:
        """Leave out what other routers do. What is news by less than `NEWS_S` is an echo of what was said here."""
        for model, outage in outages.items():
            if outage.seconds > self.of(model).left_out_for(self._clock()) + NEWS_S:
                self.leave_out(model, outage.seconds, limited=outage.limited)
