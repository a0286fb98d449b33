"""Marks a unit of work around the writes to two files.

    python3 units.py

or captured: counterfoil exec -- python3 units.py
"""

import contextlib
import ctypes


@contextlib.contextmanager
def unit_of_work():
    """What is written within becomes visible together; outside of Counterfoil this does nothing."""
    program = ctypes.CDLL(None)

    def mark(name):
        with contextlib.suppress(AttributeError):
            program[name]()

    mark("counterfoil_begin")
    try:
        yield
    except BaseException:
        mark("counterfoil_abort")
        raise
    mark("counterfoil_commit")


with unit_of_work():
    # What is in a buffer isn't in the file yet: files are closed before the unit ends.
    with open("debits.txt", "a") as debits:
        debits.write("4711 -100.00\n")
    with open("credits.txt", "a") as credits:
        credits.write("4712 +100.00\n")
