"""The apiserver's word on who somebody is and what they may do, remembered for a while.

In: tokens, users, accesses. Out: a user or none; allowed or not. Invariant: fails closed: without an
answer nobody is known and nothing is allowed, but for what is remembered; tokens are kept as digests.
Sources: TokenReview and SubjectAccessReview of the API; the times are the kubelet's defaults.
"""

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import structlog
from msgspec import Struct

from overspill.errors import OverspillError
from overspill.kube.client import Client
from overspill.kube.resources import SUBJECTACCESSREVIEWS, TOKENREVIEWS
from overspill.serve.http import Refused
from overspill.serve.kubelet.auth import Access, User

__all__ = ["Remembered", "Reviews"]

log = structlog.get_logger(__name__)

TOKEN_SECONDS = 120.0
ALLOWED_SECONDS, DENIED_SECONDS = 300.0, 30.0
REMEMBERED = 1024
TIMEOUT = 10.0
# Strangers may not keep the apiserver busy with guesses: so many are asked about at a time.
CONCURRENT = 4

T = TypeVar("T")


class Remembered(Generic[T]):
    """The newest answers, each for its time."""

    def __init__(self, *, limit: int = REMEMBERED, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._answers: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[T] | None:
        """The answer in a tuple of its own, for it may be None; None when there is none any more."""
        found = self._answers.get(key)
        if found is None or found[0] <= self._clock():
            self._answers.pop(key, None)
            return None
        self._answers.move_to_end(key)
        return (found[1],)

    def put(self, key: Hashable, answer: T, *, seconds: float) -> None:
        """Remember; what was asked for longest ago makes room."""
        self._answers[key] = (self._clock() + seconds, answer)
        self._answers.move_to_end(key)
        if len(self._answers) > self._limit:
            self._answers.popitem(last=False)


class _UserInfo(Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class _TokenStatus(Struct, frozen=True):
    authenticated: bool = False
    user: _UserInfo = _UserInfo()


class _TokenReview(Struct, frozen=True):
    status: _TokenStatus = _TokenStatus()


class _AccessStatus(Struct, frozen=True):
    allowed: bool = False


class _AccessReview(Struct, frozen=True):
    status: _AccessStatus = _AccessStatus()


class Reviews:
    """Authentication by token and authorization for one node, by the apiserver."""

    def __init__(self, client: Client, *, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._node = node
        self._salt = os.urandom(32)
        self._users: Remembered[User | None] = Remembered(clock=clock)
        self._allowed: Remembered[bool] = Remembered(clock=clock)
        self._turns = asyncio.Semaphore(CONCURRENT)

    async def user_of_token(self, token: str) -> User | None:
        """Whose token it is; None: nobody's, or nobody can tell now."""
        key = hashlib.blake2b(token.encode("latin-1"), key=self._salt).digest()
        if known := self._users.get(key):
            return known[0]
        try:
            user = await self._review_token(token)
        except (OverspillError, TimeoutError) as error:
            log.warning("token not reviewed: the request is refused", error=str(error) or "no answer in time")
            return None
        self._users.put(key, user, seconds=TOKEN_SECONDS)
        return user

    async def allowed(self, user: User, wanted: Access) -> bool:
        """Whether the user may do it to any of the subresources; asked in their order.

        Raises:
            Refused: the apiserver cannot tell now.
        """
        for subresource in wanted.subresources:
            try:
                if await self._may(user, wanted.verb, subresource):
                    return True
            except (OverspillError, TimeoutError) as error:
                asked = f"user={user.name}, verb={wanted.verb}, resource=nodes, subresource={subresource}"
                log.warning(
                    "access not reviewed: the request is refused",
                    asked=asked,
                    error=str(error) or "no answer in time",
                )
                raise Refused(500, f"Authorization error ({asked})") from error
        return False

    async def _may(self, user: User, verb: str, subresource: str) -> bool:
        key = (user, verb, subresource)
        if known := self._allowed.get(key):
            return known[0]
        allowed = await self._review_access(user, verb, subresource)
        self._allowed.put(key, allowed, seconds=ALLOWED_SECONDS if allowed else DENIED_SECONDS)
        return allowed

    async def _review_token(self, token: str) -> User | None:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        async with asyncio.timeout(TIMEOUT), self._turns:
            review = await self._client.create(TOKENREVIEWS, body, kind=_TokenReview)
        found = review.status.user
        if not review.status.authenticated or not found.username:
            return None
        return User(found.username, found.groups, found.uid, tuple(found.extra.items()))

    async def _review_access(self, user: User, verb: str, subresource: str) -> bool:
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": user.groups,
                "uid": user.uid,
                "extra": dict(user.extra),
                "resourceAttributes": {
                    "verb": verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": subresource,
                    "name": self._node,
                },
            },
        }
        async with asyncio.timeout(TIMEOUT), self._turns:
            review = await self._client.create(SUBJECTACCESSREVIEWS, body, kind=_AccessReview)
        return review.status.allowed
