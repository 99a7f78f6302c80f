"""The apiserver, asked directly by an administrator: what the driver does, and what it sees.

In: plain objects. Out: the same, and a watch that starts anew by itself. Nothing here is overspill's, so that what
is under test is not what it is judged by.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import aiohttp

TROUBLE = (aiohttp.ClientError, TimeoutError, OSError)
MERGE = "application/merge-patch+json"
PATIENCE = 120.0


class Refused(Exception):
    """An answer of 4xx."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class Api:
    """A connection of an administrator."""

    def __init__(self, endpoint: str, pki: Path) -> None:
        self._endpoint, self._pki = endpoint, pki

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=self._pki / "ca.crt")
        context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        self._session = aiohttp.ClientSession(self._endpoint, connector=connector, read_bufsize=1 << 22)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json"
    ) -> dict:
        """One request, repeated while the apiserver is away.

        Raises:
            Refused: it does not want it. TimeoutError: it was away for too long.
        """
        data = None if body is None else json.dumps(body)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=20)
                headers = {"Content-Type": kind}
                async with self._session.request(
                    method, path, data=data, headers=headers, timeout=timeout
                ) as answer:
                    text = await answer.text()
                if answer.status < 400:
                    return json.loads(text)
                # A starting apiserver forbids what its roles allow once it has read them.
                if answer.status not in {403, 429} and answer.status < 500:
                    raise Refused(answer.status, text)
                trouble = text
            except TROUBLE as error:
                trouble = repr(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: {trouble[:300]}")
            await asyncio.sleep(0.5)

    async def apply(self, path: str, found: dict) -> None:
        """Have an object of this name."""
        name = found["metadata"]["name"]
        url = f"{path}/{name}?fieldManager=chaos&force=true"
        await self.ask("PATCH", url, found, kind="application/apply-patch+yaml")

    async def merge(self, path: str, patch: dict) -> dict:
        """Change some fields."""
        return await self.ask("PATCH", path, patch, kind=MERGE)

    async def items(self, path: str) -> list[dict]:
        """A list."""
        return (await self.ask("GET", path))["items"]

    async def watch(self, path: str) -> AsyncIterator[tuple[str, dict]]:
        """Everything that there is, and then what changes; `("LISTED", {})` after each list.

        What vanished between two lists is told by the second one: whoever reads this compares.
        """
        while True:
            listing = await self.ask("GET", path)
            for found in listing["items"]:
                yield "ADDED", found
            yield "LISTED", {"uids": {found["metadata"]["uid"] for found in listing["items"]}}
            version = listing["metadata"]["resourceVersion"]
            query = f"?watch=true&allowWatchBookmarks=true&resourceVersion={version}"
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=90)
            try:
                async with self._session.get(path + query, timeout=timeout) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        if event["type"] != "BOOKMARK":
                            yield event["type"], event["object"]
            except TROUBLE:
                await asyncio.sleep(0.5)
