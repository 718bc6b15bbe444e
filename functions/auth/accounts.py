"""The callers of one replica: what each has used, and the limits that hold for it.

Accounts live in memory: limits hold for each replica by itself, and begin afresh with it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from functions.auth.caller import Caller
from functions.auth.limits import CallerAccount, Exceeded

MAX_ACCOUNTS = 10_000
"""Accounts that are remembered; beyond it the one that has been idle longest is forgotten."""


class CallerAccounts:
    """Accounts by caller.

    Args:
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._accounts: OrderedDict[tuple[str, str], CallerAccount] = OrderedDict()

    def admit(self, caller: Caller) -> CallerAccount | Exceeded | None:
        """Count a request that begins; the limit that forbids it; None for a caller without limits."""
        if not caller.limits.any:
            return None
        account = self._account(caller)
        return account.admit(self._clock(), self._wall()) or account

    def finish(self, account: CallerAccount, tokens: int) -> None:
        """A request has ended, having used so many tokens."""
        account.finish(tokens, self._clock(), self._wall())

    def headers(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """The fields of a response that say what the caller has left."""
        account = self._accounts.get((caller.kind, caller.name))
        return [] if account is None else account.headers(self._clock(), self._wall())

    def _account(self, caller: Caller) -> CallerAccount:
        key = (caller.kind, caller.name)
        account = self._accounts.get(key)
        if account is None or account.limits != caller.limits:
            account = self._accounts[key] = CallerAccount(caller.limits, self._clock())
            self._forget_idle()
        self._accounts.move_to_end(key)
        return account

    def _forget_idle(self) -> None:
        if len(self._accounts) > MAX_ACCOUNTS:
            idle = next((key for key, account in self._accounts.items() if not account.in_flight), None)
            if idle is not None:
                del self._accounts[idle]
