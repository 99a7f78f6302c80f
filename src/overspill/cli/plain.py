"""Text of others in tables: as it is, without being markup of rich or something that a terminal obeys.

In: cells. Out: what `Table.add_row` takes.
"""

from rich.text import Text

from overspill.printable import printable

__all__ = ["plain"]


def plain(*cells: str) -> list[Text]:
    """The cells of a row."""
    return [Text(printable(cell)) for cell in cells]
