"""Tables as kubectl prints them.

In: a title for each column, cells. Out: aligned text on stdout. Invariant: nothing is cut off, also where it is piped
to another program: a terminal wraps what is too long for it.
"""

from collections.abc import Collection

from rich.console import Console
from rich.table import Table
from rich.text import Text

from overspill.printable import printable

__all__ = ["new_table", "plain", "print_table"]

WIDE = 10_000


def new_table(heads: Collection[str], *, numbers: Collection[str]) -> Table:
    """An empty table; those of its columns that are `numbers` stand to the right."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head in numbers else "left", no_wrap=True)
    return table


def plain(*cells: str) -> list[Text]:
    """Cells with text of others: as it is, without being markup or something that a terminal obeys."""
    return [Text(printable(cell)) for cell in cells]


def print_table(table: Table) -> None:
    """Print it."""
    Console(width=WIDE).print(table)
