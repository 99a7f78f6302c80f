"""A clock that somebody else turns, for every Python that has this folder on PYTHONPATH.

In: the file $CLOCK, of 16 characters: by how many seconds the clock is ahead, while it may change. Only what Python
tells of the time of day; no timer, and no certificate's validity in TLS, goes by that.
"""

import datetime as dt
import mmap
import os
import time

with open(os.environ["CLOCK"], "rb") as file:  # noqa: PTH123 - every import is memory of an agent
    ahead = mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ)
right = time.time


class Turned(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + dt.timedelta(seconds=float(ahead[:]))


time.time = lambda: right() + float(ahead[:])
dt.datetime = Turned
