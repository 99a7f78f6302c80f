"""A clock that somebody else turns, for every Python that has this folder on PYTHONPATH.

In: the file $CLOCK (with other variables in it), of 16 characters: by how many seconds the clock is ahead, which may
change. Only what Python
tells of the time of day; no timer, and no certificate's validity in TLS, goes by that.
"""

import datetime as dt
import mmap
import os
import sys
import time

try:
    with open(os.path.expandvars(os.environ["CLOCK"]), "rb") as file:  # noqa: PTH123 - imports are memory of an agent
        ahead = mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ)
except OSError as error:  # else Python would go on with the right clock
    sys.exit(str(error))
right = time.time


class Turned(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + dt.timedelta(seconds=float(ahead[:]))


time.time = lambda: right() + float(ahead[:])
dt.datetime = Turned
