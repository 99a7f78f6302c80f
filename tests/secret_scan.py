"""Looks for secrets in logs: those that the tests use, by value, and whatever looks like a token or a private key.

In: values, as tests come by them; the environment's access keys come by themselves. Out: the lines that hold one,
with the secret masked. `tests/conftest.py` looks at what every test logged, and `tests/e2e` at all that a cluster
wrote before it is taken down.
"""

import base64
import json
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

__all__ = ["SECRETS", "Secrets", "readable_files", "words_of"]

# Shorter ones are found everywhere by chance.
SHORTEST = 8
VARIABLES = ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN")
# A signed token that is whole, and the inside of a PEM key.
LOOKS = r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
MASK = "<secret>"


class Secrets:
    """The secrets that must not be seen."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, *values: str) -> None:
        """Know these; those that are too short to be told from other words are left out."""
        new = {value for value in values if len(value) >= SHORTEST} - self._values
        if new:
            self._values |= new
            self._pattern = None

    def add_environment(self, environ: Mapping[str, str] = os.environ) -> None:
        """Know the access key that a test has set."""
        self.add(*(environ.get(name, "") for name in VARIABLES))

    def leaks(self, text: str) -> list[str]:
        """The lines that hold a secret, as it is or encoded, with the secret masked."""
        if self._pattern is None:
            forms = {re.escape(form) for value in self._values for form in _forms(value)}
            self._pattern = re.compile("|".join([*sorted(forms, key=len, reverse=True), LOOKS]))
        if not self._pattern.search(text):
            return []
        return [
            self._pattern.sub(MASK, line)[:300] for line in text.splitlines() if self._pattern.search(line)
        ]

    def leaks_in(self, files: Iterable[Path]) -> list[str]:
        """The same of files, each line with its file."""
        found = []
        for file in files:
            found += [f"{file}: {line}" for line in self.leaks(file.read_text(errors="replace"))]
        return found


def _forms(value: str) -> set[str]:
    """A value as it may stand in a log: as it is, in JSON, in a URL, in base64."""
    return {
        value,
        json.dumps(value)[1:-1],
        urllib.parse.quote(value, safe=""),
        base64.b64encode(value.encode()).decode().rstrip("="),
    }


def words_of(value: str) -> set[str]:
    """What of a secret's content must not be seen: all of it, and each line, for logs have lines."""
    return {value.strip(), *(line.strip() for line in value.splitlines())}


def readable_files(folder: Path) -> Iterator[Path]:
    """The files below a folder that other users may read, such as what they are shown to find a fault by."""
    if not folder.is_dir() or not folder.stat().st_mode & 0o005:
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            continue
        if entry.is_dir():
            yield from readable_files(entry)
        elif entry.is_file() and entry.stat().st_mode & 0o004:
            yield entry


SECRETS = Secrets()
