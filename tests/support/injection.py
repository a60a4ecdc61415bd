"""Calls of a command that fail, or that its process does not survive, after the session's lock.

In-process: `with Injection(number, error): run_cli(...)`. As a process that is killed:
`Forks("injection", environment).run([NUMBER, RECORD, COMMAND…])`, which notes each call in RECORD.
"""
import builtins
import contextlib
import os
import signal
import threading
from unittest import mock

CALLS = ("open", "close", "read", "write", "lseek", "ftruncate", "fsync", "replace",
         "unlink", "stat", "lstat", "fstat", "chmod", "scandir", "listdir", "mkdir")


class Injection(contextlib.ExitStack):
    """Lets the call with that number fail with an error, counted from when the lock is acquired.

    lasting: all later calls of the same function fail, too. error: an errno, or None to be killed.
    `calls` lists the names of all calls.
    """

    def __init__(self, number=0, error=None, lasting=False, note=lambda name: None):
        super().__init__()
        self.number, self.error, self.lasting, self.note = number, error, lasting, note
        self.calls, self.is_locked, self.failing = [], False, None

    def __enter__(self):
        import fcntl
        super().__enter__()
        flock = fcntl.flock

        def locked(*args):
            flock(*args)
            self.is_locked = True
        self.enter_context(mock.patch("fcntl.flock", locked))
        for name in CALLS:
            self.enter_context(mock.patch.object(os, name, self.wrapped(name, getattr(os, name))))
        self.enter_context(mock.patch.object(builtins, "open", self.wrapped("file", open)))
        import twosignal
        for name in ("sendall", "receive"):
            self.enter_context(mock.patch.object(
                twosignal.DeadlineSocket, name,
                self.wrapped(name, getattr(twosignal.DeadlineSocket, name))))
        return self

    def wrapped(self, name, real):
        def call(*args, **kwargs):
            if not self.is_locked or threading.current_thread() is not threading.main_thread():
                return real(*args, **kwargs)
            self.calls.append(name)
            self.note(name)
            if len(self.calls) == self.number and self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            is_chosen = len(self.calls) == self.number and name not in ("sendall", "receive")
            if is_chosen or self.failing == name:
                self.failing = name if self.lasting else None
                if name == "close":         # which releases the handle all the same
                    real(*args, **kwargs)
                raise OSError(self.error, os.strerror(self.error))
            return real(*args, **kwargs)
        return call


def main(arguments):
    import twosignal
    number, record = arguments[:2]
    notes = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = os.write
    with Injection(int(number), note=lambda name: write(notes, name.encode() + b"\n")):
        return twosignal.main(arguments[2:])
