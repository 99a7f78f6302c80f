"""Text of others, made fit for a terminal or a line of a log.

In: any text: a cloud's message, a name in a file. Out: the same, with what a terminal would obey, or what
would begin another line, written as an escape. Invariant: what can be printed stays as it is.
"""

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""The text on one line, with control, format and separator characters as `\x1b`, `\n`, `\u202e`."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
