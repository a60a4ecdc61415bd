"""Section State: the session file, the config file, the lock, and addresses of servers."""
import contextlib
import errno
import itertools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
from unittest import mock

import tools
import twosignal

SESSION = {"access_token": "access.token.one", "refresh_token": "refresh-one",
           "expires_at": 1893456000, "user_id": "user-1", "user_email": "owner@example.com",
           "project_ref": "abcdefghijklmnop"}
posix = unittest.skipIf(os.name == "nt", "this system has no such thing")

# Takes the lock, says so, and holds it until its stdin ends.
HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import twosignal
with twosignal.Lock(time.monotonic() + 60):
    print("held", flush=True)
    sys.stdin.read()
"""
# Counts up in a file, each step under the lock; starts at a line on stdin.
COUNT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import twosignal
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    with twosignal.Lock(time.monotonic() + 300):
        with open(sys.argv[2]) as file:
            number = int(file.read())
        with open(sys.argv[2], "w") as file:
            file.write(str(number + 1))
"""


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def content(path):
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def lacking(module, *names):
    """The module without these names, as on another system."""
    kept = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for name in kept:
        delattr(module, name)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)


class StateCase(tools.Case):
    """A test that calls the section's functions in the environment of a run."""

    def setUp(self):
        super().setUp()
        environment = tools.replaced_environment(self.environment)
        environment.__enter__()
        self.addCleanup(environment.__exit__, None, None, None)
        naps = mock.patch("time.sleep", tools.shortened_sleep(self.naps))
        naps.start()
        self.addCleanup(naps.stop)
        self.file = os.path.join(self.home, "session.json")

    def child(self, script, *args):
        """A process with its stdin and stdout as pipes; killed at the end of the test."""
        process = subprocess.Popen(
            [sys.executable, "-c", script, tools.ROOT] + list(args), env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()

    def assertRefused(self, call, *parts, code="FAILED"):
        """It raises a Failure with that code whose message and hint hold the parts."""
        with self.assertRaises(twosignal.Failure) as caught:
            call()
        failure = caught.exception
        self.assertEqual(failure.code, code, failure.message)
        for part in parts:
            self.assertIn(part, failure.message + " " + failure.hint)
        return failure

    def leftovers(self, folder=None):
        """What stands in the home beside the files that belong there."""
        known = {"session.json", "config.json", "session.lock"}
        return sorted(set(os.listdir(folder or self.home)) - known)


####################################################################################################
# Files
####################################################################################################

class Writing(StateCase):
    def test_reader_never_sees_a_torn_file(self):
        """Row 11: while a file is written again and again, each read finds one whole text."""
        texts = [json.dumps(dict(SESSION, access_token=letter * size))
                 for letter, size in (("a", 10), ("b", 9000), ("c", 300))]
        twosignal.write_text(self.file, texts[0])
        torn, reads, done, seen = [], [0], threading.Event(), threading.Event()

        def read():
            while not done.is_set():
                found = content(self.file).decode("utf-8")
                reads[0] += 1
                if found not in texts:
                    torn.append(found)
                seen.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            self.assertTrue(seen.wait(tools.DEADLINE))
            for turn in range(tools.full(300, 20000)):
                twosignal.write_text(self.file, texts[turn % 3])
        finally:
            done.set()
            reader.join(tools.DEADLINE)
        self.assertEqual(torn, [])
        self.assertGreater(reads[0], 1)
        self.assertEqual(self.leftovers(), [])

    def test_content_is_on_disk_before_it_replaces_the_old_one(self):
        """Row 11: a temporary file beside it, fsync, then rename."""
        twosignal.write_text(self.file, "old")
        steps, fsync, replace = [], os.fsync, os.replace

        def synced(handle):
            steps.append(("fsync", os.fstat(handle).st_size, content(self.file)))
            fsync(handle)

        def replaced(source, target):
            steps.append(("replace", os.path.dirname(source), content(source)))
            replace(source, target)
        with mock.patch("os.fsync", synced), mock.patch("os.replace", replaced):
            twosignal.write_text(self.file, "newer")
        self.assertEqual(steps, [("fsync", 5, b"old"), ("replace", self.home, b"newer")])

    def test_failed_write_leaves_the_old_file(self):
        """Rows 11, 12: whatever step fails, the old file is intact and nothing else is there."""
        twosignal.write_text(self.file, "old")
        for function in ("tempfile.mkstemp", "os.fsync", "os.replace"):
            for number in (errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EIO):
                with self.subTest(function=function, error=errno.errorcode[number]):
                    error = OSError(number, os.strerror(number))
                    with mock.patch(function, side_effect=error):
                        self.assertRefused(lambda: twosignal.write_text(self.file, "new"),
                                           self.file, os.strerror(number))
                    self.assertEqual(content(self.file), b"old")
                    self.assertEqual(self.leftovers(), [])

    def test_interrupted_write_leaves_the_old_file(self):
        """Row 11: Ctrl-C while it is written leaves nothing beside the old file."""
        twosignal.write_text(self.file, "old")
        for function in ("os.fsync", "os.replace"):
            with mock.patch(function, side_effect=KeyboardInterrupt):
                with self.assertRaises(KeyboardInterrupt):
                    twosignal.write_text(self.file, "new")
            self.assertEqual(content(self.file), b"old")
            self.assertEqual(self.leftovers(), [])

    def test_unless_decides_last(self):
        twosignal.write_text(self.file, "old")
        twosignal.write_text(self.file, "new", unless=lambda: True)
        self.assertEqual(content(self.file), b"old")
        twosignal.write_text(self.file, "new", unless=lambda: False)
        self.assertEqual(content(self.file), b"new")
        self.assertEqual(self.leftovers(), [])

    def test_text_is_utf8_whatever_the_locale(self):
        twosignal.write_text(self.file, "東京")
        self.assertEqual(content(self.file).decode("utf-8"), "東京")
        self.assertEqual(twosignal.read_text(self.file), "東京")


class Links(StateCase):
    def setUp(self):
        super().setUp()
        self.elsewhere = self.path("elsewhere")
        os.mkdir(self.elsewhere)

    def linked(self, target, name="session.json"):
        link = os.path.join(self.home, name)
        os.symlink(target, link)
        return link

    @posix
    def test_link_stays_and_its_target_is_replaced(self):
        """Row 15: absolute, relative, to another link, and to a file that does not exist yet."""
        target = os.path.join(self.elsewhere, "real.json")
        chain = os.path.join(self.elsewhere, "chain")
        os.symlink("real.json", chain)
        for aim in (target, os.path.join("..", "elsewhere", "real.json"), chain):
            for old in (b"old", None):
                with self.subTest(aim=aim, old=old):
                    link = self.linked(aim)
                    if old:
                        self.write("elsewhere/real.json", old)
                    twosignal.write_text(link, "new")
                    self.assertEqual(os.readlink(link), aim)
                    self.assertFalse(os.path.islink(target))
                    self.assertEqual(content(target), b"new")
                    self.assertEqual(mode(target), 0o600)
                    self.assertEqual(sorted(os.listdir(self.elsewhere)), ["chain", "real.json"])
                    os.unlink(link)
                    os.unlink(target)

    @posix
    def test_linked_config_stays_a_link(self):
        """Row 15: save_config updates the file that config.json links to."""
        target = self.write("elsewhere/config.json", {"theme": "dark"})
        link = self.linked(target, "config.json")
        twosignal.save_config("https://one.example.com")
        self.assertTrue(os.path.islink(link))
        self.assertEqual(json.loads(content(target).decode()),
                         {"theme": "dark", "api_url": "https://one.example.com"})

    @posix
    def test_forgetting_a_linked_session_leaves_no_tokens(self):
        """Row 15: the tokens are gone from the file behind the link, too."""
        target = self.write("elsewhere/real.json", SESSION)
        self.linked(target)
        twosignal.forget_session()
        self.assertIsNone(twosignal.load_session())
        left = content(target) if os.path.exists(target) else b""
        self.assertNotIn(SESSION["refresh_token"].encode(), left)

    @posix
    def test_planted_link_in_place_of_the_lock_is_not_followed(self):
        """Row 15: neither opened, nor created, nor given other permissions."""
        victim = self.write("victim", b"precious")
        os.chmod(victim, 0o644)
        missing = self.path("missing")
        for aim in (victim, missing):
            with self.subTest(aim=aim):
                link = self.linked(aim, "session.lock")
                lock = twosignal.Lock(time.monotonic() + 5)
                self.assertRefused(lock.__enter__, link)
                os.unlink(link)
        self.assertEqual((content(victim), mode(victim)), (b"precious", 0o644))
        self.assertFalse(os.path.exists(missing))

    @posix
    def test_planted_link_in_place_of_the_temporary_file_is_not_followed(self):
        """Row 15: its name can't be foreseen; one that is met all the same is left alone."""
        victim = self.write("victim", b"precious")
        missing = self.path("missing")
        planted = [os.path.join(self.home, ".twosignal-" + name) for name in ("one", "two")]
        os.symlink(victim, planted[0])
        os.symlink(missing, planted[1])
        names = iter(["one", "two", "three"])
        with mock.patch("tempfile._get_candidate_names", lambda: names):
            twosignal.write_text(self.file, "new")
        self.assertEqual(list(names), [])
        self.assertEqual(content(self.file), b"new")
        self.assertEqual(content(victim), b"precious")
        self.assertFalse(os.path.exists(missing))
        self.assertFalse(os.path.islink(self.file))

    def test_names_of_temporary_files_differ(self):
        """Row 15: no two writes use the same name."""
        names, make = [], tempfile.mkstemp

        def noted(*args, **kwargs):
            handle, path = make(*args, **kwargs)
            names.append(path)
            return handle, path
        with mock.patch("tempfile.mkstemp", noted):
            for _ in range(5):
                twosignal.write_text(self.file, "x")
        self.assertEqual(len(set(names)), 5)


class Permissions(StateCase):
    UMASKS = (0o000, 0o022, 0o077, 0o777)

    def store(self):
        with twosignal.Lock(time.monotonic() + 5):
            twosignal.save_session(twosignal.Session(dict(SESSION)))
        twosignal.save_config("https://one.example.com")

    def assertPrivate(self):
        self.assertEqual(oct(mode(self.home)), oct(0o700))
        for name in ("session.json", "config.json", "session.lock"):
            self.assertEqual((name, oct(mode(os.path.join(self.home, name)))), (name, oct(0o600)))

    @posix
    def test_new_files_are_private(self):
        """Row 16: directory 0700, files 0600, whatever the umask."""
        for value in self.UMASKS:
            with self.subTest(umask=oct(value)):
                os.rmdir(self.home)
                with umask(value):
                    self.store()
                self.assertPrivate()
                for name in os.listdir(self.home):
                    os.unlink(os.path.join(self.home, name))

    @posix
    def test_files_that_were_there_become_private(self):
        """Row 16: whatever was there before, and whatever the umask."""
        for value in self.UMASKS:
            with self.subTest(umask=oct(value)):
                for name, text in (("session.json", json.dumps(SESSION)), ("config.json", "{}"),
                                   ("session.lock", "")):
                    os.chmod(self.write("home/" + name, text), 0o666)
                os.chmod(self.home, 0o777)
                with umask(value):
                    self.store()
                self.assertPrivate()

    @posix
    def test_shared_directories_keep_their_permissions(self):
        """Row 16: one with the sticky bit, such as /tmp, and the user's own HOME are left alone."""
        os.chmod(self.home, 0o1777)
        twosignal.make_home()
        self.assertEqual(mode(self.home), 0o1777)
        os.chmod(self.home, 0o755)
        with tools.replaced_environment(dict(self.environment, HOME=self.home)):
            twosignal.make_home()
        self.assertEqual(mode(self.home), 0o755)

    @posix
    def test_target_of_a_link_is_private(self):
        """Rows 15, 16: the file behind a link becomes 0600."""
        target = self.write("real.json", SESSION)
        os.chmod(target, 0o644)
        os.symlink(target, self.file)
        twosignal.save_session(twosignal.Session(dict(SESSION)))
        self.assertEqual(mode(target), 0o600)

    @posix
    def test_temporary_file_is_never_readable_for_others(self):
        """Row 16: from its first byte on."""
        modes = []
        fsync = os.fsync

        def noted(handle):
            modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
            fsync(handle)
        with umask(0), mock.patch("os.fsync", noted):
            twosignal.write_text(self.file, "x")
        self.assertEqual(modes, [0o600])


class Windows(StateCase):
    """What only Windows does, with stand-ins for its functions."""

    def replace(self, failures):
        """os.replace that a reader blocks so many times."""
        blocked = [PermissionError(13, "Access is denied")] * failures
        return mock.patch("os.replace", side_effect=blocked + [None])

    def on(self, name):
        return mock.patch.object(os, "name", name)

    def test_blocked_replace_is_tried_again(self):
        """Row 17: for a moment, with pauses."""
        for failures in range(5):
            with self.on("nt"), self.replace(failures) as replace:
                twosignal._replace("from", "to")
            self.assertEqual(replace.call_args_list, [mock.call("from", "to")] * (failures + 1))
            self.assertEqual(len(self.naps), failures)
            del self.naps[:]

    def test_replace_that_stays_blocked_fails(self):
        """Row 17: after at most two seconds."""
        with self.on("nt"), self.replace(1000) as replace:
            with self.assertRaises(PermissionError):
                twosignal._replace("from", "to")
        self.assertGreater(replace.call_count, 3)
        self.assertGreater(sum(self.naps), 0.3)
        self.assertLess(sum(self.naps), 2)

    def test_blocked_for_ever_is_a_clear_failure(self):
        """Row 17: the old file stays, no temporary one is left."""
        twosignal.write_text(self.file, "old")
        with self.replace(1000):
            self.assertRefused(lambda: twosignal.write_text(self.file, "new"), self.file)
        self.assertEqual((content(self.file), self.leftovers()), (b"old", []))

    def test_elsewhere_it_is_an_error_at_once(self):
        """Row 17: on other systems nothing blocks for a moment."""
        with self.on("posix"), self.replace(1) as replace:
            with self.assertRaises(PermissionError):
                twosignal._replace("from", "to")
        self.assertEqual(replace.call_count, 1)

    def test_other_errors_are_not_tried_again(self):
        """Row 17: only a blocked file is."""
        with self.on("nt"), mock.patch("os.replace", side_effect=OSError(28, "full")) as replace:
            with self.assertRaises(OSError):
                twosignal._replace("from", "to")
        self.assertEqual(replace.call_count, 1)

    def locking(self, taken, calls, error=errno.EACCES):
        """A module like msvcrt: a byte is locked by one handle, until that one is closed."""
        def lock(handle, kind, size):
            position = os.lseek(handle, 0, os.SEEK_CUR)
            calls.append((kind, position, size))
            file = os.fstat(handle)
            if taken.get((file.st_ino, position), handle) != handle:
                raise OSError(error, "Permission denied")
            taken[(file.st_ino, position)] = handle
        module = types.ModuleType("msvcrt")
        module.LK_NBLCK, module.LK_UNLCK, module.locking = 2, 0, lock
        return mock.patch.dict(sys.modules, {"fcntl": None, "msvcrt": module})

    def test_lock_works_there(self):
        """Row 17: with msvcrt.locking on the first byte, without fcntl, fchmod and O_NOFOLLOW."""
        taken, calls = {}, []
        with self.locking(taken, calls), lacking(os, "fchmod", "O_NOFOLLOW", "getuid"):
            with twosignal.Lock(time.monotonic() + 60):
                self.assertEqual(calls, [(2, 0, 1)])
                waiting = twosignal.Lock(time.monotonic())
                self.assertRefused(waiting.__enter__, "session.lock", code="LOCKED")
            taken.clear()               # the system does so when the handle is closed
            with twosignal.Lock(time.monotonic() + 60):
                pass

    def test_lock_waits_there(self):
        """Row 17: EACCES and EDEADLK mean that another process holds it."""
        for error in (errno.EACCES, errno.EDEADLK):
            taken = {}
            with self.locking(taken, [], error):
                with twosignal.Lock(time.monotonic() + 60):
                    freed = type("Naps", (list,), {"append": lambda _, nap: taken.clear()})()
                    with mock.patch("time.sleep", tools.shortened_sleep(freed)):
                        with twosignal.Lock(time.monotonic() + 60):
                            self.assertEqual(len(taken), 1)


####################################################################################################
# The lock
####################################################################################################

class Locking(StateCase):
    def test_increments_are_not_lost(self):
        """Row 2: processes that count under the lock miss no step."""
        processes, times = tools.full((4, 100), (8, 500))
        path = self.write("count", b"0")
        children = [self.child(COUNT, path, str(times)) for _ in range(processes)]
        for child in children:
            self.assertEqual(child.stdout.readline(), "ready\n")
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            self.assertEqual(child.wait(600), 0)
        self.assertEqual(content(path), b"%d" % (processes * times))

    def test_lock_file_is_never_replaced_or_deleted(self):
        """Row 2: it is a file of its own; saving, refreshing and forgetting leave it alone."""
        deadline = time.monotonic() + 60
        with twosignal.Lock(deadline):
            path = os.path.join(self.home, "session.lock")
            first = os.stat(path)
            session = twosignal.Session(dict(SESSION))
            twosignal.save_session(session)
            twosignal.prove_writable(session)
            twosignal.save_config("https://one.example.com")
            twosignal.forget_session()
        with twosignal.Lock(deadline):
            pass
        self.assertEqual(os.stat(path).st_ino, first.st_ino)

    def test_waits_until_it_is_free(self):
        """Row 2: also between threads of one process."""
        order, inside = [], threading.Event()

        def second():
            with twosignal.Lock(time.monotonic() + 60):
                order.append("second")
        thread = threading.Thread(target=second, daemon=True)
        with twosignal.Lock(time.monotonic() + 60):
            take = twosignal._take

            def noted(handle):
                inside.set()
                return take(handle)
            with mock.patch("twosignal._take", noted):
                thread.start()
                self.assertTrue(inside.wait(tools.DEADLINE))
            order.append("first")
        thread.join(tools.DEADLINE)
        self.assertEqual(order, ["first", "second"])

    def test_waiting_ends(self):
        """Row 4: at the deadline, with a hint."""
        child = self.child(HOLD)
        self.assertEqual(child.stdout.readline(), "held\n")
        lock = twosignal.Lock(time.monotonic() + 0.2)
        failure = self.assertRefused(lock.__enter__, "session.lock", code="LOCKED")
        self.assertEqual(failure.exit_code, 3)
        self.assertTrue(failure.hint)
        self.assertTrue(self.naps)

    def test_dead_holder_blocks_nobody(self):
        """Row 5: a process that was killed while it held the lock has freed it."""
        child = self.child(HOLD)
        self.assertEqual(child.stdout.readline(), "held\n")
        child.kill()
        child.wait()
        with twosignal.Lock(time.monotonic()):
            self.assertEqual(self.naps, [])

    def test_free_after_an_exception(self):
        """Row 5: whatever ends the block, the lock is free."""
        with self.assertRaises(KeyboardInterrupt):
            with twosignal.Lock(time.monotonic() + 60):
                raise KeyboardInterrupt
        lock = twosignal.Lock(time.monotonic() + 60)
        with mock.patch("twosignal._take", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, lock.__enter__)
        self.assertRaises(OSError, os.fstat, lock.handle)       # closed
        with twosignal.Lock(time.monotonic()):
            self.assertEqual(self.naps, [])

    def test_no_lock_to_be_had(self):
        """Row 12: a system that cannot lock, and a place where no file can be: clear failures."""
        for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            with mock.patch("twosignal._take", side_effect=OSError(number, os.strerror(number))):
                self.assertRefused(twosignal.Lock(time.monotonic()).__enter__, "session.lock",
                                   "TWOSIGNAL_HOME")
        path = os.path.join(self.home, "session.lock")
        os.unlink(path)
        os.mkdir(path)
        self.assertRefused(twosignal.Lock(time.monotonic()).__enter__, path)


class Signals(StateCase):
    NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    @posix
    def test_signal_waits_for_the_end_of_the_block(self):
        """Row 6: it comes when the block is left, neither earlier nor never."""
        for name in self.NAMES:
            number, came = getattr(signal, name), []
            before = signal.signal(number, lambda *_: came.append(number))
            try:
                with twosignal.SignalsHeld():
                    os.kill(os.getpid(), number)
                    self.assertEqual(came, [])
                self.assertEqual(came, [number])
                os.kill(os.getpid(), number)
                self.assertEqual(len(came), 2)
            finally:
                signal.signal(number, before)

    @posix
    def test_interrupt_is_raised_afterwards(self):
        """Row 6: also where the block fails by itself."""
        with tools.kept_signals():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for error in (None, ValueError):
                with self.assertRaises(KeyboardInterrupt):
                    with twosignal.SignalsHeld():
                        os.kill(os.getpid(), signal.SIGINT)
                        if error:
                            raise error

    @posix
    def test_ignored_signals_stay_ignored(self):
        """Row 6: as under nohup."""
        with tools.kept_signals():
            for name in self.NAMES:
                signal.signal(getattr(signal, name), signal.SIG_IGN)
            with twosignal.SignalsHeld():
                for name in self.NAMES:
                    os.kill(os.getpid(), getattr(signal, name))
            for name in self.NAMES:
                self.assertIs(signal.getsignal(getattr(signal, name)), signal.SIG_IGN)

    def test_other_threads_can_use_it(self):
        """Row 6: handlers belong to the main thread; elsewhere the block just runs."""
        done = []

        def work():
            with twosignal.SignalsHeld():
                done.append(True)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(tools.DEADLINE)
        self.assertEqual(done, [True])


####################################################################################################
# The session file
####################################################################################################

class SessionFile(StateCase):
    def store(self, values):
        self.write("home/session.json", values)

    def test_nothing_stored(self):
        self.assertIsNone(twosignal.load_session())
        os.rmdir(self.home)
        self.assertIsNone(twosignal.load_session())

    def test_tui_can_read_what_is_written(self):
        """Row 13: the six documented keys, with the types that the TUI expects."""
        twosignal.save_session(twosignal.Session(dict(SESSION, api_url="https://one.example.com")))
        found = self.state("session.json")
        for key, value in SESSION.items():
            self.assertEqual((key, found[key]), (key, value))
            self.assertIs(type(found[key]), type(value))

    def test_what_the_tui_wrote_can_be_read(self):
        """Row 13: six keys and no more, on one line or indented, in any order."""
        for text in (json.dumps(SESSION), json.dumps(SESSION, indent=4, sort_keys=True),
                     json.dumps(SESSION, separators=(",", ":")) + "\r\n"):
            self.store(text)
            session = twosignal.load_session()
            self.assertEqual((session.access_token, session.refresh_token, session.expires_at),
                             ("access.token.one", "refresh-one", 1893456000))
            self.assertIsNone(session.api_url)

    def test_unknown_keys_stay(self):
        """Row 13: whatever they hold."""
        values = dict(SESSION, theme={"dark": [1, None, "東京"]}, last_project="p")
        self.store(values)
        twosignal.save_session(twosignal.load_session())
        self.assertEqual(self.state("session.json"), values)

    def saved(self, stored, fresh, spent):
        """What save_session returns, and what the file holds then."""
        self.store(stored)
        session = twosignal.save_session(twosignal.Session(fresh), twosignal.Session(spent))
        return session.refresh_token, self.state("session.json")["refresh_token"]

    def test_older_session_never_overwrites_a_newer_one(self):
        """Row 13: what another program stored meanwhile stays if it is newer."""
        fresh = dict(SESSION, refresh_token="two", expires_at=2000)
        spent = dict(SESSION, expires_at=1000)
        for expires_at, kept in ((2500, "other"), (2000, "other"), (1500, "two")):
            stored = dict(SESSION, refresh_token="other", expires_at=expires_at)
            with self.subTest(expires_at=expires_at):
                self.assertEqual(self.saved(stored, dict(fresh), spent), (kept, kept))

    def test_spent_or_damaged_file_is_replaced(self):
        """Row 13: the session that this one replaces, also with a later expiry; a damaged file."""
        fresh, spent = dict(SESSION, refresh_token="two", expires_at=2000), dict(SESSION)
        self.assertEqual(self.saved(spent, fresh, spent), ("two", "two"))
        self.assertEqual(self.saved('{"access', fresh, spent), ("two", "two"))

    def test_half_written_file_is_read_again(self):
        """Row 13: the TUI writes in place; a reader that comes in between waits for the rest."""
        text = json.dumps(SESSION)
        for kept in (0, 1, len(text) // 2, len(text) - 1):
            self.store(text[:kept])
            rest = type("Naps", (list,), {"append": lambda _, nap: self.store(text)})()
            with mock.patch("time.sleep", tools.shortened_sleep(rest)):
                self.assertEqual(twosignal.load_session().refresh_token, "refresh-one")

    def test_cut_at_every_byte(self):
        """Row 14: reported with its name, never an exception of another kind."""
        text = json.dumps(dict(SESSION, user_email="東京@example.com"), indent=2,
                          ensure_ascii=False).encode("utf-8")
        for size in range(0, len(text), tools.full(29, 1)):
            self.store(text[:size])
            self.assertRefused(twosignal.load_session, self.file, "twosignal login")

    def test_wrong_shapes(self):
        """Row 14: reported with its name, or no session at all; never another exception."""
        for text in wrong_sessions():
            with self.subTest(text=text[:60]):
                self.store(text)
                try:
                    self.assertIsNone(twosignal.load_session())
                except twosignal.Failure as failure:
                    self.assertIn(self.file, failure.message)

    def test_odd_expiry_can_be_asked(self):
        """Row 14: a session that is accepted can be used: its expiry is a time."""
        for expires_at in (0, -1, 1e300, 10 ** 20, 10 ** 400, 1.5, "1893456000", "1e300", True):
            with self.subTest(expires_at=str(expires_at)[:20]):
                self.store(dict(SESSION, expires_at=expires_at))
                try:
                    session = twosignal.load_session()
                except twosignal.Failure as failure:
                    self.assertIn(self.file, failure.message)
                    continue
                self.assertIn(session.holds(60), (True, False))
                self.assertIsInstance(twosignal.iso(session.expires_at), str)

    @posix
    def test_file_that_cannot_be_read(self):
        """Row 14: a directory in its place is reported with its name."""
        os.mkdir(self.file)
        self.assertRefused(twosignal.load_session, self.file)

    def test_no_line_break_or_blank_in_a_token(self):
        """Row 33: a token that could change a request is refused where it is read."""
        for key, evil in itertools.product(
                ("access_token", "refresh_token", "project_ref"),
                ("a\r\nX-Evil: 1", "a\nb", "a b", "a\tb", "a\x00b", "a\x7f", "é", "", "a\n")):
            with self.subTest(key=key, evil=evil):
                self.store(dict(SESSION, **{key: evil}))
                self.assertRefused(twosignal.load_session, self.file)
        for evil in ("a;b", "a=b", "a,b", "a%b", "a/b", '"'):
            self.store(dict(SESSION, project_ref=evil))
            self.assertRefused(twosignal.load_session, self.file)

    def test_forgetting(self):
        twosignal.forget_session()
        self.store(SESSION)
        twosignal.forget_session()
        self.assertFalse(os.path.exists(self.file))


def wrong_sessions():
    """Texts and bytes that are no session."""
    shapes = ["[]", "{}", "null", "true", "0", "1e999", '"text"', "[{}]", "NaN", "-Infinity",
              "{} {}", "\x00", "\x00" * 500, "[" * 100000, '{"a":' * 100000, "1" * 5000,
              "<html></html>", b"\xff\xfe{\x00}\x00", b"\xff" * 100, " " * (2 << 20)]
    shapes += [dict(SESSION, **{key: value}) for key in SESSION for value in
               (None, [], {}, ["x"], {"x": 1}, float("nan"), float("inf"), False)]
    shapes += [{other: SESSION[other] for other in SESSION if other != key}
               for key in ("access_token", "refresh_token", "expires_at", "project_ref")]
    shapes += [dict(SESSION, expires_at=value) for value in ("soon", "", "NaN", "0x10", "1_0")]
    shapes += [dict(SESSION, api_url=5), dict(SESSION, api_url=None), dict(SESSION, user_id={})]
    shapes += ['{"expires_at": %s}' % ("9" * 5000)]
    texts = [shape if isinstance(shape, (str, bytes)) else json.dumps(shape) for shape in shapes]
    return [tools.as_bytes(text) for text in texts]


class Writable(StateCase):
    def test_proof_changes_nothing(self):
        """Row 12: the file is the same to the byte, and no other one is left."""
        text = json.dumps(SESSION, indent=7).encode() + b"\r\n"
        self.write("home/session.json", text)
        twosignal.prove_writable(twosignal.load_session())
        self.assertEqual((content(self.file), self.leftovers()), (text, []))

    def test_proof_keeps_what_others_write_meanwhile(self):
        """Rows 12, 13: a newer session that comes during the proof stays, and so does a logout."""
        session = twosignal.Session(dict(SESSION))
        for newer in (json.dumps(dict(SESSION, refresh_token="newer")), None):
            self.write("home/session.json", SESSION)
            read, reads = twosignal.read_text, []

            def changed(path):
                if reads:               # after the first look at the file
                    os.unlink(path) if newer is None else self.write("home/session.json", newer)
                    reads.clear()
                found = read(path)
                reads.append(path)
                return found
            with mock.patch("twosignal.read_text", changed):
                twosignal.prove_writable(session)
            self.assertEqual(twosignal.read_text(self.file), newer)

    def test_proof_fails_where_a_save_would(self):
        """Row 12: each step that a save takes is tried."""
        self.write("home/session.json", SESSION)
        session = twosignal.load_session()
        for function in ("tempfile.mkstemp", "os.fsync", "os.replace"):
            with mock.patch(function, side_effect=OSError(errno.ENOSPC, "No space left")):
                self.assertRefused(lambda: twosignal.prove_writable(session), self.file)


####################################################################################################
# The config file and addresses
####################################################################################################

class Config(StateCase):
    def test_unknown_keys_stay(self):
        """Row 13: the address changes, the rest of the file does not."""
        self.write("home/config.json", {"theme": "dark", "api_url": "https://a.example.com",
                                        "more": {"x": [1]}})
        twosignal.save_config("https://b.example.com")
        self.assertEqual(self.state("config.json"), {
            "theme": "dark", "api_url": "https://b.example.com", "more": {"x": [1]}})

    def test_damaged_file_is_named(self):
        """Row 14: cut at every byte, and wrong shapes."""
        path = os.path.join(self.home, "config.json")
        text = b'{"api_url": "https://a.example.com"}'
        shapes = [b"[]", b'"x"', b"1", b"null", b'{"api_url": 5}', b'{"api_url": null}', b"\xff",
                  b'{"api_url": ["x"]}', b"[" * 100000, b"\x00", b" " * (2 << 20)]
        for wrong in shapes + [text[:size] for size in range(len(text))]:
            self.write("home/config.json", wrong)
            self.assertRefused(twosignal.load_config, path, "api_url")

    def test_damaged_file_is_replaced_by_a_save(self):
        """Row 14: a login that works mends it."""
        for wrong in (b"", b"[]", b'{"api_u', b'{"api_url": 5}'):
            self.write("home/config.json", wrong)
            twosignal.save_config("https://b.example.com")
            self.assertEqual(self.state("config.json"), {"api_url": "https://b.example.com"})

    def test_order_of_addresses(self):
        flag, variable, kept = ["https://%s.example.com" % name for name in ("f", "v", "k")]
        self.assertEqual(twosignal.configured_url(), twosignal.DEFAULT_URL)
        self.write("home/config.json", {"api_url": kept})
        self.assertEqual(twosignal.configured_url(), kept)
        for empty in ("", "  "):
            os.environ["TWOSIGNAL_URL"] = empty
            self.assertEqual(twosignal.configured_url(), kept)
        os.environ["TWOSIGNAL_URL"] = variable
        self.assertEqual(twosignal.configured_url(), variable)
        self.assertEqual(twosignal.configured_url(flag), flag)

    def test_file_is_not_read_where_something_else_decides(self):
        self.write("home/config.json", b"{")
        self.assertEqual(twosignal.configured_url("a.example.com"), "https://a.example.com")
        os.environ["TWOSIGNAL_URL"] = "b.example.com"
        self.assertEqual(twosignal.configured_url(), "https://b.example.com")

    def test_empty_address_in_the_file_counts_as_none(self):
        self.write("home/config.json", {"api_url": ""})
        self.assertEqual(twosignal.configured_url(), twosignal.DEFAULT_URL)

    def test_error_names_where_the_address_stands(self):
        """Row 32: the flag, the variable, or the file."""
        self.assertRefused(lambda: twosignal.configured_url("ftp://x"), "--url", code="USAGE")
        self.write("home/config.json", {"api_url": "ftp://x"})
        self.assertRefused(twosignal.configured_url, "config.json", code="USAGE")
        os.environ["TWOSIGNAL_URL"] = "ftp://x"
        self.assertRefused(twosignal.configured_url, "TWOSIGNAL_URL", code="USAGE")


WRONG_ADDRESSES = (
    "", " ", "/", "//", "//host", "///host", ":", "://", "://host", "?", "#", "@", ".", "..", "-",
    "*", "http:", "http:/", "http://", "https://", "http:///", "http:///path", "http://:80",
    "https://:", "http://?x", "http://#x", "http:host", "http:/host", "http//host", "http://http://host",
    "file:", "file:/etc/passwd", "file:///etc/passwd", "file://host/etc/passwd", "FILE:///etc/passwd",
    "ftp:", "ftp://host", "ftp://host/file", "ftps://host", "data:", "data:,x", "data:text/html,x",
    "data://text/plain,x", "javascript:alert(1)", "javascript://host", "mailto:a@example.com",
    "ws://host", "unix:///var/run/x.sock", "gopher://host", "about:blank", "urn:x", "local_file://x",
    "url:http://host", "http+unix://host", "ht tp://host", "\u017fttp://host",
    "http://user@host", "http://user:word@host", "user:word@host", "http://host@evil.example.com",
    "http://host:", "http://host:x", "http://host:-1", "http://host:0", "http://host:65536",
    "http://host:99999", "http://host:1:2", "http://host:8 0", "http://host:\u0661",
    "http://[::1", "http://::1", "http://[::1]x", "http://[]", "http://[x]", "http://[::1]:x",
    "http://[::1%25eth0]", "http://-host", "http://host-", "http://.host", "http://ho*st",
    "http://host\\evil", "http://host\\@evil.example.com", "http://ho'st", 'http://ho"st',
    "http://host/path?query", "http://host?query", "http://host#part", "http://host/#part",
    "http://host/<x>", 'http://host/"', "http://host/{x}", "http://host/\\x", "http://host/\u00e9",
    # What a careless IDNA step turns into a slash, an @ or a colon.
    "http://host\uff0fevil", "http://host\uff20evil", "http://host\uff1a80", "http://\u2100.example",
    "http://host\uff1fx", "http://\u00ad", "http://" + "\u00e9" * 70)
RIGHT_ADDRESSES = (
    ("example.com", "https://example.com"),
    ("example.com:8443", "https://example.com:8443"),
    ("  https://example.com  ", "https://example.com"),
    ("HTTPS://Example.COM", "https://example.com"),
    ("http://example.com", "http://example.com"),
    ("https://example.com:443", "https://example.com"),
    ("http://example.com:80", "http://example.com"),
    ("http://example.com:443", "http://example.com:443"),
    ("localhost", "http://localhost"),
    ("localhost:3000", "http://localhost:3000"),
    ("LOCALHOST:3000/", "http://localhost:3000"),
    ("https://localhost:3000", "https://localhost:3000"),
    ("app.localhost", "http://app.localhost"),
    ("127.0.0.1:3000", "http://127.0.0.1:3000"),
    ("[::1]:3000", "http://[::1]:3000"),
    ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
    ("192.168.1.5", "https://192.168.1.5"),
    ("0:443", "https://0"),             # digits alone are a name, not a port
    ("http://99999", "http://99999"),
    ("my_host", "https://my_host"),
    ("localhost.example.com", "https://localhost.example.com"),
    ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
    ("https://example.com/", "https://example.com"),
    ("https://example.com/api", "https://example.com"),
    ("https://example.com/api/", "https://example.com"),
    ("https://example.com/api/v1", "https://example.com"),
    ("https://example.com/api/v1/", "https://example.com"),
    ("https://example.com/api/trpc", "https://example.com"),
    ("https://example.com/signal", "https://example.com/signal"),
    ("https://example.com/signal/", "https://example.com/signal"),
    ("https://example.com/signal/api/v1", "https://example.com/signal"),
    ("https://example.com/signal//api", "https://example.com/signal"),
    ("https://example.com/signal/api//", "https://example.com/signal"),
    ("https://example.com/myapi", "https://example.com/myapi"),
    ("https://example.com/api/v2", "https://example.com/api/v2"),
    ("https://example.com/a%20b~c_d.e-f", "https://example.com/a%20b~c_d.e-f"),
    ("https://b\u00fccher.example", "https://xn--bcher-kva.example"))


class Addresses(StateCase):
    def test_right_addresses(self):
        for text, expected in RIGHT_ADDRESSES:
            with self.subTest(text=text):
                self.assertEqual(twosignal.normal_url(text), expected)
                self.assertEqual(twosignal.normal_url(expected), expected)

    def test_stored_address_is_the_same_when_read_again(self):
        """Row 30: otherwise a session would not belong to the server of its own login."""
        for path in ("", "/", "/api", "/api/", "/api/v1", "/api/api", "/api/v1/api/trpc", "/x//api",
                     "/x/api/v1/", "/x//", "/:/", "/api/v1/v1", "/" * 50 + "x"):
            try:
                found = twosignal.normal_url("https://example.com" + path)
            except twosignal.Failure:
                continue
            self.assertEqual(twosignal.normal_url(found), found, path)

    def test_only_http_and_https(self):
        """Row 32: anything else is a usage error."""
        for text in WRONG_ADDRESSES:
            with self.subTest(text=text):
                self.assertRefused(lambda: twosignal.normal_url(text), "--url", code="USAGE")

    def test_nothing_in_an_address_changes_a_request(self):
        """Row 33: controls and blanks within an address are refused, those around it taken off."""
        for number in list(range(0x21)) + list(range(0x7f, 0xa1)) + [0x2028, 0x202e, 0x3000]:
            character = chr(number)
            for form in ("http://ho%sst", "http://host%s:80", "http://host:8%s0", "http://host/a%sb",
                         "ht%stp://host", "http:%s//host", "http:/%s/host", "http://host/a%s/b",
                         "http://host%s/b", "http://host/%sb"):
                text = form % character
                with self.subTest(text=text):
                    self.assertRefused(lambda: twosignal.normal_url(text), code="USAGE")

    def test_random_addresses(self):
        """Rows 32, 33: what is accepted is an origin and a path, and stays what it is."""
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        parts = ["http", "https", "ftp", "file", ":", "/", "//", "://", "host", "example.com", "@",
                 "?", "#", "%0d%0a", "%", "\r\n", "\x00", " ", ".", "-", "80", "443", "0", "[", "]",
                 "::1", "\\", "\u00e9", "\uff0f", "\u2100", "api", "v1", "trpc", "localhost", "~"]
        pattern = r"\Ahttps?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[!-~]*)?\Z"
        with self.subTest(seed=seed):
            for _ in range(tools.full(1500, 50000)):
                text = "".join(dice.choice(parts) for _ in range(dice.randrange(1, 9)))
                if dice.random() < 0.5:
                    text = "http://host" + text
                try:
                    found = twosignal.normal_url(text)
                except twosignal.Failure as failure:
                    self.assertEqual(failure.code, "USAGE", text)
                    continue
                self.assertRegex(found, pattern, text)
                for character in "?#@\\":
                    self.assertNotIn(character, found.split("/")[2], text)
                self.assertEqual(twosignal.normal_url(found), found, text)

    def test_this_machine(self):
        """Row 31: what counts as this machine."""
        for host in ("localhost", "localhost:3000", "app.localhost", "127.0.0.1", "127.1.2.3:80",
                     "[::1]", "[::1]:3000"):
            self.assertTrue(twosignal.is_local("http://" + host), host)
        for host in ("example.com", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1",
                     "notlocalhost", "[::2]", "[2001:db8::1]", "0.0.0.0", "128.0.0.1",
                     "12.0.0.127"):
            self.assertFalse(twosignal.is_local("http://" + host), host)


if __name__ == "__main__":
    unittest.main()
