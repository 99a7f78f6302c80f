"""A real single-node Kubernetes on this machine, with virtual nodes and a cloud beside it.

In: a name and a few options. Out: running programs, all of whose files lie in one state folder.
Invariant: what is about to be made is written down first, so that `down` finds it after any crash.
"""
