"""How RedisStore talks to Redis: commands that travel together, and end in time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import frozen
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores._redis_lua import Script

__all__ = ["Link", "connect"]

_log = logging.getLogger("avaturn_async.webhooks")
T = TypeVar("T")

_OLDEST_VERSION = (6, 2)
_SOCKET_TIMEOUT = 2.0
# The larger a batch, the less a command costs; one is filled while others are away.
_BATCHES_AT_ONCE = 2
_MOST_IN_A_BATCH = 50
_LONGEST_REASON = 200


def connect(url: str) -> Redis:
    """A client for a URL, which connects when it is used.

    Raises:
        ValueError: It is no URL of Redis.
    """
    factory: Any = Redis  # its own types are partial
    try:
        # No retries: what a lost reply belonged to may have been done.
        client: Redis = factory.from_url(
            url,
            socket_timeout=_SOCKET_TIMEOUT,
            socket_connect_timeout=_SOCKET_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            # With RESP3 redis-py 8 does not look whether the server has closed an idle connection meanwhile.
            protocol=2,
        )
    except ValueError:
        # Its text may show a part of the password.
        raise ValueError(
            "not a URL of Redis, such as redis://user:password@host:6379/0 (percent-encode the password)"
        ) from None
    return client


@frozen(eq=False)
class _Command:
    """A command on its way, and whoever waits for the reply."""

    words: tuple[Any, ...]
    reply: asyncio.Future[Any]

    def answer(self, reply: Any) -> None:
        """Hand the reply over, which may be an error, unless they gave up."""
        if self.reply.done():
            return
        if isinstance(reply, BaseException):
            self.reply.set_exception(reply)
        else:
            self.reply.set_result(reply)


class Link:
    """Commands to Redis, each of which ends in time, whatever the client that carries it does.

    What is asked at a time goes in one batch, which is written and answered as a whole; each command in it
    still succeeds or fails alone. Only a lost connection is an error for all of them.

    Args:
        redis: A ``redis.asyncio.Redis``.
        deadline: Seconds that a command may take, the wait for its turn and for a connection included.
    """

    def __init__(self, redis: Redis, *, deadline: float) -> None:
        self.redis: Any = redis  # its own types are partial
        self.deadline = deadline
        self._waiting: list[_Command] = []
        self._batches = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, script: Script, keys: Iterable[bytes], arguments: Iterable[bytes]) -> Any:
        """What a script replies.

        Raises:
            StoreFullError: Redis has no memory left.
            StoreError: Redis is away, or refused.
        """
        keys = tuple(keys)
        words = (len(keys), *keys, *arguments)
        try:
            async with asyncio.timeout(self.deadline):
                try:
                    return await self._ask("EVALSHA", script.sha, *words)
                except NoScriptError:
                    # It was restarted, or another one has taken its place. EVAL also makes it known there.
                    return await self._ask("EVAL", script.source, *words)
        except TimeoutError:
            raise self.refusal(_late(self.deadline)) from None
        except (RedisError, OSError) as error:
            raise self.refusal(error) from None

    async def check(self) -> None:
        """Look whether this Redis keeps what it accepts.

        Raises:
            StoreError: Redis is away, too old, or evicts.
        """
        info: Mapping[str, Any] = {}
        try:
            info = await self.within(self.deadline, self.redis.execute_command("INFO"))
        except ResponseError:
            pass  # forbidden, as it may be at a hoster's: nothing can be known then
        except (RedisError, OSError) as error:
            raise self.refusal(error) from None
        version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
        if version and tuple(map(int, version.groups())) < _OLDEST_VERSION:
            raise StoreError(f"RedisStore needs Redis 6.2 or later, or Valkey; this one is {version[0]}")
        policy = info.get("maxmemory_policy")
        if policy is None:
            _log.warning("Redis does not tell its maxmemory-policy: make sure that it is noeviction")
        elif policy != "noeviction":
            raise StoreError(
                f"Redis has the maxmemory-policy {policy}, which drops events that were acknowledged: "
                "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in its configuration)"
            )
        if not info.get("aof_enabled"):
            _log.warning("Redis runs without AOF: a crash takes acknowledged events (remedy: appendonly yes)")

    async def within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives, in a task of its own.

        redis-py loses a cancellation now and then (it uses ``asyncio.wait_for``, which does on Python 3.11),
        so that neither a timeout around it nor a cancelled caller could be sure of their way out.

        Raises:
            TimeoutError: It took longer than that.
            StoreError: The link was closed meanwhile.
        """
        task = self.begin(work)
        try:
            await asyncio.wait((task,), timeout=seconds)
        finally:
            in_time = task.done()
            self.end(task)
        if not in_time:
            raise _late(seconds)
        if task.cancelled():
            raise _closed()
        return task.result()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task for ``work``, which is over at the latest when the link is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def end(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task, and again until it minds."""
        if not task.done():
            task.cancel()
            asyncio.get_running_loop().call_later(1.0, self.end, task)

    async def close(self) -> None:
        """End what is under way. The client stays as it is."""
        self._closed = True
        for command in self._waiting:
            command.answer(_closed())
        self._waiting.clear()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(tuple(self._tasks), timeout=0.1)

    def refusal(self, error: Exception) -> StoreError:
        """What the caller gets to see of an error: never an argument of a command, nor the password."""
        reason = " ".join(str(error).partition(", with args")[0].split())
        for secret in self._secrets():
            reason = reason.replace(secret, "...")
        # Redis 6.2 tells it within the text of another error.
        if isinstance(error, OutOfMemoryError) or "-OOM command not allowed" in str(error):
            return StoreFullError("Redis has reached its maxmemory; nothing that is stored was dropped")
        return StoreError(f"Redis: {type(error).__name__}: {reason[:_LONGEST_REASON]}")

    def _secrets(self) -> tuple[str, ...]:
        known = self.redis.connection_pool.connection_kwargs
        return tuple(str(known[name]) for name in ("password", "username") if known.get(name))

    def _ask(self, *words: Any) -> asyncio.Future[Any]:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        command = _Command(words, loop.create_future())
        if not self._waiting:
            # What others ask in this turn of the loop comes along.
            loop.call_soon(self._depart)
        self._waiting.append(command)
        return command.reply

    def _depart(self) -> None:
        """Send what waits, unless there is enough under way: then it goes with what comes meanwhile."""
        while self._waiting and self._batches < _BATCHES_AT_ONCE:
            batch = [command for command in self._waiting[:_MOST_IN_A_BATCH] if not command.reply.done()]
            del self._waiting[:_MOST_IN_A_BATCH]
            if batch:
                self._batches += 1
                task = self.begin(self._carry(batch))
                patience = asyncio.get_running_loop().call_later(self.deadline, self.end, task)
                task.add_done_callback(partial(self._arrive, batch, patience))

    async def _carry(self, batch: Sequence[_Command]) -> Sequence[Any]:
        # Bodies are bytes, also in a client that decodes every reply.
        options = {"NEVER_DECODE": True}
        if len(batch) == 1:
            # Here a pipeline costs more than it saves.
            return [await self.redis.execute_command(*batch[0].words, **options)]
        pipeline = self.redis.pipeline(transaction=False)
        for command in batch:
            pipeline.execute_command(*command.words, **options)
        replies: Sequence[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    def _arrive(
        self, batch: Sequence[_Command], patience: asyncio.TimerHandle, task: asyncio.Task[Sequence[Any]]
    ) -> None:
        patience.cancel()
        self._batches -= 1
        replies: Sequence[Any]
        if task.cancelled():
            # Closed; or it took too long, and then nobody waits for it any more.
            replies = [_closed() for _ in batch]
        elif failure := task.exception():
            replies = [failure] * len(batch)
        else:
            replies = task.result()
        for command, reply in zip(batch, replies, strict=True):
            command.answer(reply)
        self._depart()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of one that nobody waits for any more: else asyncio would complain


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"no answer within {seconds:g} s")


def _closed() -> StoreError:
    return StoreError("the store is closed")
