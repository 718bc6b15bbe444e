"""Answers by `Idempotency-Key`: a request that comes again gets the first answer and is not worked on again.

The header is that of draft-ietf-httpapi-idempotency-key-header. Only good answers are kept, in memory and
in a folder that other replicas of the machine read too; both are bounded, and what is oldest goes first.
Two requests with one key at the same time are worked on once; when the first one fails, the second one
tries.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from functions.problems import ProblemError

log = logging.getLogger(__name__)

MAX_KEY = 256
"""Characters of a key; a longer one is refused."""
_CHECK_EVERY = 64
"""Answers written between two looks at the folder's size."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer, and the request that it belongs to.

    Attributes:
        fingerprint: of the request.
        expires: seconds since the epoch.
        body: the answer.
    """

    fingerprint: str
    expires: float
    body: str


class AnswerStore:
    """Answers for some time.

    Args:
        folder: where they outlive the replica; made with the first answer, for its owner alone.
        keep_s: for how long.
        max_bytes: of all answers in memory, and of all in the folder.
        clock: seconds since the epoch.
    """

    def __init__(
        self, folder: Path, *, keep_s: float, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, KeptAnswer] = OrderedDict()
        self._size = 0
        self._written = 0
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._complained = False

    async def answer(
        self, key: str, fingerprint: str, work: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        """The answer to a request, and whether it was there already.

        Args:
            key: of caller and request.
            fingerprint: of the request, which has to be the same for the same key.
            work: makes the answer.

        Raises:
            ProblemError: 422, the key belongs to another request.
            Exception: what `work` raises; nothing is kept then.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        while (before := self._under_way.get(name)) is not None:
            await asyncio.wait({before})  # its end, good or bad; cancelling this wait leaves it alone
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way[name] = ended
        try:
            known = self._kept.get(name) or await asyncio.to_thread(self._read, name)
            if known is not None and known.expires > self._clock():
                if known.fingerprint != fingerprint:
                    raise ProblemError(
                        422, "Idempotency-Key was used for another request; must be new for each request"
                    )
                self._remember(name, known)
                return known.body, True
            body = await work()
            made = KeptAnswer(fingerprint, self._clock() + self._keep_s, body)
            self._remember(name, made)
            await asyncio.shield(asyncio.to_thread(self._write, name, made))
            return body, False
        finally:
            del self._under_way[name]
            ended.set_result(None)

    def _remember(self, name: str, answer: KeptAnswer) -> None:
        before = self._kept.pop(name, None)
        self._size += len(answer.body) - (0 if before is None else len(before.body))
        self._kept[name] = answer
        while self._size > self._max_bytes and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._size -= len(oldest.body)

    def _read(self, name: str) -> KeptAnswer | None:
        try:
            found = json.loads((self._folder / name).read_bytes())
            return KeptAnswer(str(found["fingerprint"]), float(found["expires"]), str(found["body"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, name: str, answer: KeptAnswer) -> None:
        """In the folder, whole or not at all. Where that is not possible the memory has to do."""
        content = {"fingerprint": answer.fingerprint, "expires": answer.expires, "body": answer.body}
        partial = self._folder / f".{name}.{os.getpid()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(content, file)
            partial.replace(self._folder / name)
            if self._written % _CHECK_EVERY == 0:
                self._prune()
            self._written += 1
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            if not self._complained:
                self._complained = True
                log.warning("answers by Idempotency-Key are kept in memory only: %s", error)

    def _prune(self) -> None:
        """Remove what is too old, then the oldest until the rest is small enough."""
        oldest = self._clock() - self._keep_s
        entries = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another replica removes too
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        size = sum(entry[1] for entry in entries)
        for modified, length, path in sorted(entries):
            if modified > oldest and size <= self._max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            size -= length


def parse_key(value: str | None) -> str | None:
    """The key in a header's value, with or without the quotes of a structured field; None: there is none.

    Raises:
        ProblemError: 400, it is empty or too long.
    """
    if value is None:
        return None
    key = value.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 0 < len(key) <= MAX_KEY:
        raise ProblemError(400, f"Idempotency-Key must have from 1 to {MAX_KEY} characters, not {len(key)}")
    return key
