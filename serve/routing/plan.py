"""From what a request asks for to the targets that could answer it. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serve.errors import AdapterUnusable, InvalidRequest, NotFound, SwitchboardError, Unavailable
from serve.quoting import quoted
from serve.registry import Snapshot
from serve.routing.address import Address, parse, unknown_model
from serve.routing.fallback import Failure
from serve.schemas import Target

UNAVAILABLE_RETRY_S = 60.0
"""What only the operator can mend is not worth asking for every second."""


class BotLike(Protocol):
    """What planning needs to know of a configured bot."""

    @property
    def model(self) -> str: ...

    @property
    def adapters(self) -> Sequence[str]:
        """Names of adapters, at most one for each model."""
        ...

    @property
    def fallback_models(self) -> Sequence[str] | None:
        """Models to ask in its own one's place; None for what that model says itself."""
        ...


@dataclass(frozen=True, slots=True)
class Names:
    """The configured names. A model and a bot never share one; `adapters` holds pairs of (model, adapter)."""

    models: Collection[str]
    bots: Mapping[str, BotLike]
    adapters: Collection[tuple[str, str]] = frozenset()
    fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By model, those to ask in its place."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """By model, why it cannot be asked at all."""

    def adapter_of(self, bot: BotLike, model: str) -> str | None:
        """The bot's adapter for `model`, if it has one."""
        return next((name for name in bot.adapters if (model, name) in self.adapters), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets in the order in which to try them, and the bot in whose name that is, if any.

    `skipped` are those that cannot even be tried now. `first_model` and `first_adapter` name what was asked for.
    """

    targets: tuple[Target, ...]
    bot: str | None = None
    skipped: tuple[Failure, ...] = ()
    first_model: str = ""
    first_adapter: str | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the names alone decide; the snapshot then says which version of the adapter that is."""

    model: str
    adapter: str | None = None
    version: str | None = None
    bot: str | None = None


def plan(
    asked: str,
    names: Names,
    snapshot: Snapshot,
    session_bot: str | None = None,
    retry_after_s: float = 1.0,
    fallbacks: Sequence[str] | None = None,
) -> Plan:
    """Plan a request for `asked`, the text of its `model` field; `session_bot` is the bot of its session.

    `fallbacks` are the request's own; without any, the bot's or the model's stand in. An adapter that the request
    itself names is never left out for the model's fallbacks, which know nothing of it.

    Raises `NotFound` (`model_not_found`, `adapter_not_found`), `InvalidRequest` when the session belongs to a
    bot that does not answer as `asked`, `AdapterUnusable`, and `Unavailable` when no replica has said yet
    which versions of the adapter there are.
    """
    first = _choice(asked, names, session_bot)
    choices = [first, *_further(parse(asked), first, names, session_bot, fallbacks)]
    targets: list[Target] = []
    skipped: list[Failure] = []
    refusal: SwitchboardError | None = None
    for choice in dict.fromkeys(choices):
        try:
            target = _target(choice, names, snapshot, retry_after_s)
        except NotFound as error:
            if fallbacks is None or choice is first:
                raise
            raise _of_fallbacks(error) from error
        except (Unavailable, AdapterUnusable) as error:
            if isinstance(error, AdapterUnusable) and choice is first:
                raise
            refusal = refusal or error
            code = error.code or "unavailable"
            skipped.append(Failure(choice.model, error.status, code, error.retry_after_s, sent=False))
        else:
            targets += [target] if target not in targets else []
    if refusal is not None and not targets:
        raise refusal
    return Plan(tuple(targets), first.bot, tuple(skipped), first.model, first.adapter)


def _choice(asked: str, names: Names, session_bot: str | None) -> _Choice:
    address = parse(asked)
    return _outside_session(address, names) if session_bot is None else _inside_session(address, names, session_bot)


def _further(
    address: Address, first: _Choice, names: Names, session_bot: str | None, fallbacks: Sequence[str] | None
) -> list[_Choice]:
    if fallbacks is not None:
        try:
            return [_choice(asked, names, session_bot) for asked in fallbacks]
        except (NotFound, InvalidRequest) as error:
            raise _of_fallbacks(error) from error
    if address.adapter is not None:
        return []
    bot = names.bots.get(first.bot) if first.bot is not None else None
    own = names.fallbacks.get(first.model, ())
    if bot is None:
        return [_Choice(model) for model in own]
    models = own if bot.fallback_models is None else bot.fallback_models
    return [_Choice(model, names.adapter_of(bot, model), bot=first.bot) for model in models]


def _of_fallbacks(error: NotFound | InvalidRequest) -> NotFound | InvalidRequest:
    """The same refusal with the request's `fallbacks` as the field at fault, in the place of `model`."""
    return type(error)(error.message, "fallbacks", error.code)


def _target(choice: _Choice, names: Names, snapshot: Snapshot, retry_after_s: float) -> Target:
    if (why := names.unavailable.get(choice.model)) is not None:
        raise Unavailable(
            f"The model '{choice.model}' is not available: {why}.", "model", "model_unavailable", UNAVAILABLE_RETRY_S
        )
    if choice.adapter is None:
        return Target(choice.model)
    return _with_adapter(choice, choice.adapter, names, snapshot, retry_after_s)


def _outside_session(address: Address, names: Names) -> _Choice:
    bot = names.bots.get(address.model) if address.adapter is None else None
    if bot is not None:
        return _Choice(bot.model, names.adapter_of(bot, bot.model), bot=address.model)
    if address.model not in names.models:
        raise unknown_model(str(address))
    return _Choice(address.model, address.adapter, address.version)


def _inside_session(address: Address, names: Names, session_bot: str) -> _Choice:
    """The session's bot decides the adapter; a request may name the bot, or a model that it can use."""
    asked = _outside_session(address, names)
    bot = names.bots.get(session_bot)
    if bot is None:
        raise NotFound(f"The session's bot {quoted(session_bot)} does not exist any more.", "model", "model_not_found")
    adapter = names.adapter_of(bot, asked.model)
    usable = asked.model == bot.model or adapter is not None
    conflict = asked.bot not in (None, session_bot) or asked.adapter not in (None, adapter)
    if conflict or not usable:
        raise InvalidRequest(
            f"The session belongs to the bot '{session_bot}', which does not answer as {quoted(str(address))}.",
            "model",
        )
    return _Choice(asked.model, adapter, asked.version, session_bot)


def _with_adapter(choice: _Choice, adapter: str, names: Names, snapshot: Snapshot, retry_after_s: float) -> Target:
    configured = (choice.model, adapter) in names.adapters
    if configured and not snapshot.versions_of(choice.model, adapter):
        raise Unavailable(
            f"No replica of '{choice.model}' has its adapter {quoted(adapter)} ready yet.",
            "model",
            retry_after_s=retry_after_s,
        )
    return Target(choice.model, snapshot.resolve_adapter(choice.model, adapter, choice.version))
