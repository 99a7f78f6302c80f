"""Logging: one shape for our lines and the libraries'.

In: `structlog.get_logger(__name__)` calls and stdlib records, both with what is bound to the context
(`structlog.contextvars`). Out: one line each on stderr, as text or JSON. Invariant: a value under a
name that speaks of a secret is never written, nor what the functions of a traceback held; an event is one line
whatever is in it, and a line below the level costs a comparison.
"""

import logging
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from overspill.printable import printable

__all__ = ["configure"]

SECRET_WORDS = ("authorization", "password", "secret", "token", "credential", "private_key")
# Of several lines by nature, and made by Python.
TRACES = ("exception", "stack")
# Libraries that tell at "info" what is nobody's concern.
QUIET = ("aiohttp.access", "asyncio")


def configure(level: str, fmt: Literal["json", "text"], *, stream: TextIO | None = None) -> None:
    """Set up logging of this process.

    Args:
        level: least level that is written: `debug`, `info`, `warning` or `error`.
        fmt: `json` for one object a line, `text` for people.
        stream: where lines go; stderr by default.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(fmt, colors=fmt == "text" and handler.stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(least)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _formatter(fmt: Literal["json", "text"], *, colors: bool) -> logging.Formatter:
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if fmt == "json"
        else [
            _on_one_line,
            # Where Rich is there, structlog's own choice shows the variables of every function, secrets among them.
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _shared() -> list[Processor]:
    """What happens to every line, whoever wrote it."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_secrets,
    ]


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No text of others makes a line of its own or moves the cursor; JSON escapes such by itself."""
    for name, value in event.items():
        if isinstance(value, str) and name not in TRACES:
            event[name] = printable(value)
    return event


def _without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name in event:
        if any(word in name.lower() for word in SECRET_WORDS):
            event[name] = "***"
    return event
