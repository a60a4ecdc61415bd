"""The tests; their helpers import each other by plain names, so tests/support is on the path.

With TWOSIGNAL_TEST_LIMIT, a test that takes more than that many seconds ends the run, which says
where each thread is.
"""
import faulthandler
import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
# A shell has what it starts in the background ignore Ctrl-C, and so would each command of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)
LIMIT = int(os.environ.get("TWOSIGNAL_TEST_LIMIT", 0))


def run_limited(test, result=None, run=unittest.TestCase.run):
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=sys.__stderr__)
    return run(test, result)


if LIMIT:
    unittest.TestCase.run = run_limited
