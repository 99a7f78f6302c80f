"""Container groups that have lost their pod: finding, telling, deleting."""
