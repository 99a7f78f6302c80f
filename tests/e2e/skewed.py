"""`overspill` under a clock that is wrong: skewed.py SECONDS ARGUMENT…

Only what Python tells of the time of day; no timer, and no certificate's validity, goes by that.
"""

import datetime as dt
import sys
import time

SKEW = float(sys.argv.pop(1))
right = time.time


class Skewed(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + dt.timedelta(seconds=SKEW)


time.time = lambda: right() + SKEW
dt.datetime = Skewed

from overspill.cli.main import main  # noqa: E402 - after the clock

main()
