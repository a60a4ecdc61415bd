"""The section Files: atomic replacement, -o FILE and devices, the lock, deferred signals."""
import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
from unittest import mock

import twosignal
from tools import (DEADLINE, FULL_DISK, IN_SHELL, OWNER, PASSWORD, PROGRAM, SESSION, CommandCase,
                   EventfulClock, ProcessCase, Result, StateCase, TracesCase, as_text, fails_from,
                   file_bytes, full, full_once, heed_interrupts, json_page, kept_signals,
                   merged, posix, pty_run, requests_of, run_command)


class AtomicWrites(StateCase):
    def test_reader_never_sees_a_partial_file(self):
        """Row 11: while a file is written again and again, each read returns one whole text."""
        texts = [json.dumps(dict(SESSION, access_token=letter * size))
                 for letter, size in (("a", 10), ("b", 9000), ("c", 300))]
        twosignal.write_text(self.file, texts[0])
        partial, reads, done, seen = [], [0], threading.Event(), threading.Event()
        turns = threading.Semaphore(0)          # five reads for each write, whenever they happen

        def read():
            while not done.is_set():
                found = file_bytes(self.file).decode("utf-8")
                reads[0] += 1
                if found not in texts:
                    partial.append(found)
                seen.set()
                turns.acquire()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            self.assertTrue(seen.wait(DEADLINE))
            # What it relies on is the system's rename. No reader notices whether it is on the disk.
            with mock.patch("os.fsync", lambda handle: None):
                for turn in range(full_once(300, 20000)):
                    twosignal.write_text(self.file, texts[turn % 3])
                    for _ in range(5):
                        turns.release()
        finally:
            done.set()
            turns.release()
            reader.join(DEADLINE)
        self.assertEqual(partial, [])
        self.assertGreater(reads[0], 1)
        self.assertEqual(self.leftovers(), [])

    def test_content_is_on_disk_before_it_replaces_the_old_one(self):
        """Row 11: a temporary file beside it, fsync, then rename."""
        twosignal.write_text(self.file, "old")
        steps, fsync, replace = [], os.fsync, os.replace

        def synced(handle):
            steps.append(("fsync", os.fstat(handle).st_size, file_bytes(self.file)))
            fsync(handle)

        def replaced(source, target):
            steps.append(("replace", os.path.dirname(source), file_bytes(source)))
            replace(source, target)
        with mock.patch("os.fsync", synced), mock.patch("os.replace", replaced):
            twosignal.write_text(self.file, "newer")
        self.assertEqual(steps, [("fsync", 5, b"old"), ("replace", self.home, b"newer")])

    def test_failed_write_leaves_the_old_file(self):
        """Rows 11, 12: whichever step fails, the old file is intact and no other file is left."""
        twosignal.write_text(self.file, "old")
        for function in ("tempfile.mkstemp", "os.fsync", "os.replace"):
            for number in (errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EIO):
                with self.subTest(function=function, error=errno.errorcode[number]):
                    error = OSError(number, os.strerror(number))
                    with mock.patch(function, side_effect=error):
                        self.assertRefused(lambda: twosignal.write_text(self.file, "new"),
                                           self.file, os.strerror(number))
                    self.assertEqual(file_bytes(self.file), b"old")
                    self.assertEqual(self.leftovers(), [])

    def test_interrupted_write_leaves_the_old_file(self):
        """Row 11: Ctrl-C during the write leaves the old file and no other."""
        twosignal.write_text(self.file, "old")
        for function in ("os.fsync", "os.replace"):
            with mock.patch(function, side_effect=KeyboardInterrupt):
                with self.assertRaises(KeyboardInterrupt):
                    twosignal.write_text(self.file, "new")
            self.assertEqual(file_bytes(self.file), b"old")
            self.assertEqual(self.leftovers(), [])

    def test_cancelled_write_leaves_the_old_file(self):
        """Also if the new content has been brought to the disk already."""
        twosignal.write_text(self.file, "old")
        for is_on_disk in (False, True):
            with twosignal.AtomicFile(self.file) as file:
                file.write(b"new")
                if is_on_disk:
                    file.sync()
                file.cancel()
            self.assertEqual(file_bytes(self.file), b"old")
            self.assertEqual(self.leftovers(), [])

    @posix
    def test_link_that_is_not_followed_is_replaced(self):
        target = self.write("target", b"old")
        os.symlink(target, self.file)
        with twosignal.AtomicFile(self.file, follow_links=False) as file:
            file.write(b"new")
        self.assertFalse(os.path.islink(self.file))
        self.assertEqual((file_bytes(self.file), file_bytes(target)), (b"new", b"old"))

    def test_text_is_utf8_whatever_the_locale(self):
        twosignal.write_text(self.file, "東京")
        self.assertEqual(file_bytes(self.file).decode("utf-8"), "東京")
        self.assertEqual(twosignal.read_text(self.file), "東京")


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


class LinkedFiles(StateCase):
    def setUp(self):
        super().setUp()
        self.elsewhere = self.path("elsewhere")
        os.mkdir(self.elsewhere)

    def make_link(self, target, name="session.json"):
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
                    link = self.make_link(aim)
                    if old:
                        self.write("elsewhere/real.json", old)
                    twosignal.write_text(link, "new")
                    self.assertEqual(os.readlink(link), aim)
                    self.assertFalse(os.path.islink(target))
                    self.assertEqual(file_bytes(target), b"new")
                    self.assertEqual(mode(target), 0o600)
                    self.assertEqual(sorted(os.listdir(self.elsewhere)), ["chain", "real.json"])
                    os.unlink(link)
                    os.unlink(target)

    @posix
    def test_linked_config_stays_a_link(self):
        """Row 15: save_config updates the file that config.json links to."""
        target = self.write("elsewhere/config.json", {"theme": "dark"})
        link = self.make_link(target, "config.json")
        twosignal.save_config({"api_url": "https://one.example.com"})
        self.assertTrue(os.path.islink(link))
        self.assertEqual(json.loads(file_bytes(target).decode()),
                         {"theme": "dark", "api_url": "https://one.example.com"})

    @posix
    def test_deleting_a_linked_session_leaves_no_tokens(self):
        """Row 15: the tokens are gone from the target of the link, too."""
        target = self.write("elsewhere/real.json", SESSION)
        self.make_link(target)
        self.forget_session()
        self.assertIsNone(twosignal.load_session())
        left = file_bytes(target) if os.path.exists(target) else b""
        self.assertNotIn(SESSION["refresh_token"].encode(), left)

    @posix
    def test_planted_link_in_place_of_the_lock_is_not_followed(self):
        """Row 15: neither opened, nor created, nor given other permissions."""
        victim = self.write("victim", b"precious")
        os.chmod(victim, 0o644)
        missing = self.path("missing")
        for aim in (victim, missing):
            with self.subTest(aim=aim):
                link = self.make_link(aim, "session.lock")
                lock = twosignal.Spending(time.monotonic() + 5)
                self.assertRefused(lock.__enter__, link)
                os.unlink(link)
        self.assertEqual((file_bytes(victim), mode(victim)), (b"precious", 0o644))
        self.assertFalse(os.path.exists(missing))

    @posix
    def test_planted_link_in_place_of_the_temporary_file_is_not_followed(self):
        """Row 15: its name cannot be predicted; one that is guessed all the same is left alone."""
        victim = self.write("victim", b"precious")
        missing = self.path("missing")
        planted = [os.path.join(self.home, ".twosignal-" + name) for name in ("one", "two")]
        os.symlink(victim, planted[0])
        os.symlink(missing, planted[1])
        names = iter(["one", "two", "three"])
        with mock.patch("tempfile._get_candidate_names", lambda: names):
            twosignal.write_text(self.file, "new")
        self.assertEqual(list(names), [])
        self.assertEqual(file_bytes(self.file), b"new")
        self.assertEqual(file_bytes(victim), b"precious")
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


@contextlib.contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


class PrivateFiles(StateCase):
    UMASKS = (0o000, 0o022, 0o077, 0o777)

    def store(self):
        self.save_session(twosignal.Session(dict(SESSION)))
        twosignal.save_config({"api_url": "https://one.example.com"})

    def assertPrivate(self):
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
                    self.assertEqual(os.umask(value), value)
                self.assertEqual(oct(mode(self.home)), oct(0o700))
                self.assertPrivate()
                for name in os.listdir(self.home):
                    os.unlink(os.path.join(self.home, name))

    @posix
    def test_swapped_directory(self):
        """Row 62: a link in place of the new directory gets no mode, nor does its target."""
        victim, real = self.path("victim"), os.mkdir
        os.mkdir(victim, 0o755)
        os.rmdir(self.home)

        def swapped(path, *args, **kwargs):
            real(path, *args, **kwargs)
            os.rmdir(path)
            os.symlink(victim, path)
        with mock.patch("os.mkdir", swapped):
            twosignal.result_or_failure(twosignal.make_directory, self.home)
        self.assertEqual(oct(mode(victim)), oct(0o755))

    @posix
    def test_directories_on_the_way_are_private(self):
        """Row 16: all that it creates."""
        with umask(0o022), mock.patch.dict(os.environ, TWOSIGNAL_HOME=self.path("a/b/c")):
            twosignal.make_directory(twosignal.home_directory())
        for name in ("a", "a/b", "a/b/c"):
            self.assertEqual(oct(mode(self.path(name))), oct(0o700))

    @posix
    def test_files_that_were_there_become_private(self):
        """Row 16: whatever was there before, and whatever the umask."""
        for value in self.UMASKS:
            with self.subTest(umask=oct(value)):
                for name, text in (("session.json", json.dumps(SESSION)), ("config.json", "{}"),
                                   ("session.lock", "")):
                    os.chmod(self.write("home/" + name, text), 0o666)
                with umask(value):
                    self.store()
                self.assertPrivate()

    @posix
    def test_directories_that_were_there_keep_their_modes(self):
        """Row 51: whatever they are, also under a strict umask; the files in them are private."""
        for permissions in (0o2775, 0o755, 0o1775, 0o750, 0o700):
            with self.subTest(permissions=oct(permissions)), umask(0o077):
                os.chmod(self.home, permissions)
                self.store()
                self.assertEqual(oct(mode(self.home)), oct(permissions))
                self.assertPrivate()

    @posix
    def test_target_of_a_link_is_private(self):
        """Rows 15, 16: the target of a link becomes 0600."""
        target = self.write("real.json", SESSION)
        os.chmod(target, 0o644)
        os.symlink(target, self.file)
        self.save_session(twosignal.Session(dict(SESSION)))
        self.assertEqual(mode(target), 0o600)

    @posix
    def test_temporary_file_is_never_readable_by_others(self):
        """Row 16: from its first byte on."""
        modes = []
        fsync = os.fsync

        def noted(handle):
            modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
            fsync(handle)
        with umask(0), mock.patch("os.fsync", noted):
            twosignal.write_text(self.file, "x")
        self.assertEqual(modes, [0o600])


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


@unittest.skipIf(os.name == "nt", "there are no such files")
class SpecialFiles(CommandCase, StateCase):
    """What is no regular file is refused at once, and stays as it is."""

    COMMANDS = (["orgs", "list"], ["logout"], ["login", "-e", OWNER, "--password-stdin"],
                ["login", "--url", "http://127.0.0.1:9", "-e", OWNER, "--password-stdin"])

    def make_fifo(self, path):
        os.mkfifo(path)

    def make_socket(self, path):
        server = self.enter(contextlib.closing(socket.socket(socket.AF_UNIX)))
        server.bind(path)

    def make_device(self, path):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def make_full_directory(self, path):
        os.mkdir(path)
        self.write(os.path.join(path, "inside"), b"precious")

    def kinds(self):
        """(a function that makes a file of a kind at a path, whether a link leads to it)."""
        kinds = [self.make_fifo, self.make_socket, self.make_full_directory]
        kinds += [self.make_device] if os.geteuid() == 0 else []
        return [(kind, is_linked) for kind in kinds for is_linked in (False, True)]

    def assertLeftAlone(self, make, is_linked, name, *commands):
        """Whatever is made under that name in the home is as before after each command."""
        place = os.path.join(self.home, name)
        target = self.path("target") if is_linked else place
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        make(target)
        if is_linked:
            os.symlink(target, place)
        before = os.lstat(target)
        for command in commands:
            with self.subTest(name=name, make=make.__name__, linked=is_linked, command=command):
                self.assertFails(self.cli(*command, stdin=PASSWORD + "\n", naps=[]), 1,
                                 "regular file")
                after = os.lstat(target)
                self.assertEqual((after.st_ino, after.st_mode), (before.st_ino, before.st_mode))
                self.assertEqual(os.path.islink(place), is_linked)
        if is_linked:
            os.unlink(place)
        shutil.rmtree(target) if os.path.isdir(target) else os.unlink(target)

    def test_session(self):
        """Row 62: as session.json, none is read, replaced or deleted."""
        for make, is_linked in self.kinds():
            self.assertLeftAlone(make, is_linked, "session.json", *self.COMMANDS[:3])

    def test_config(self):
        """Row 62: as config.json, none is read or replaced."""
        for make, is_linked in self.kinds():
            self.assertLeftAlone(make, is_linked, "config.json", ["orgs", "list"],
                                 ["login", "--url", self.server.url, "-e", OWNER,
                                  "--password-stdin"])

    def test_lock(self):
        """Row 62: as session.lock, none is locked or given another mode."""
        for make, is_linked in self.kinds():
            self.assertLeftAlone(make, is_linked, "session.lock", self.COMMANDS[2])

    @unittest.skipUnless(os.path.exists("/dev/null"), "needs /dev/null")
    def test_session_that_leads_to_the_null_device(self):
        """Row 62: as shells' histories do, to store nothing."""
        os.unlink(os.path.join(self.home, "session.json"))
        os.symlink("/dev/null", os.path.join(self.home, "session.json"))
        for command in self.COMMANDS[1:3]:
            self.assertFails(self.cli(*command, stdin=PASSWORD), 1, "regular file")
            self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_key_file(self):
        """Row 62: a key is read from a regular file."""
        path = self.path("key")
        for make, _ in self.kinds():
            make(path)
            self.assertFails(self.cli("traces", "list", env={"TWOSIGNAL_API_KEY_FILE": path}),
                             1, path)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def test_certificates(self):
        """Row 62: a certificate, too."""
        path = self.path("ca.pem")
        for make, _ in self.kinds():
            make(path)
            for access in (twosignal.Access(path), twosignal.Access(None, path)):
                self.assertRefused(lambda: twosignal.tls_context(access), path, "regular file",
                                   code="USAGE")
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def test_lock_with_another_name(self):
        """Row 62: what is a hard link to a file elsewhere keeps its mode."""
        victim = self.write("victim", b"precious")
        os.chmod(victim, 0o644)
        os.link(victim, os.path.join(self.home, "session.lock"))
        self.cli(*self.COMMANDS[2], stdin=PASSWORD)
        self.assertEqual((file_bytes(victim), mode(victim)), (b"precious", 0o644))

    def test_swapped_temporary_file(self):
        """Row 62: modes are set by handle: a link in place of the name is not followed."""
        victim = self.write("victim", b"precious")
        os.chmod(victim, 0o600)
        made = tempfile.mkstemp

        def swapped(*args, **kwargs):
            handle, path = made(*args, **kwargs)
            os.unlink(path)
            os.symlink(victim, path)
            return handle, path
        with mock.patch("tempfile.mkstemp", swapped), twosignal.AtomicFile(
                self.path("out"), 0o644) as file:
            file.write(b"new")
        self.assertEqual((file_bytes(victim), mode(victim)), (b"precious", 0o600))

    def test_file_system_without_modes(self):
        """Row 62: such as vfat, where chmod fails: the files are saved all the same."""
        with mock.patch("os.chmod", side_effect=PermissionError(errno.EPERM, "no modes")):
            self.assertOk(self.cli(*self.COMMANDS[2], stdin=PASSWORD))


class WindowsFiles(StateCase):
    """What only Windows does, with stand-ins for its functions."""

    def replace(self, failures):
        """An os.replace that a reader blocks that many times."""
        blocked = [PermissionError(13, "Access is denied")] * failures
        return mock.patch("os.replace", side_effect=blocked + [None])

    def on(self, name):
        return mock.patch.object(os, "name", name)

    def test_blocked_replace_is_retried(self):
        """Row 17: for a short time, with pauses."""
        for failures in range(5):
            with self.on("nt"), self.replace(failures) as replace:
                twosignal.replace_file("from", "to", self.clock)
            self.assertEqual(replace.call_args_list, [mock.call("from", "to")] * (failures + 1))
            self.assertEqual(len(self.naps), failures)
            del self.naps[:]

    def test_replace_that_stays_blocked_fails(self):
        """Row 17: after at most two seconds."""
        with self.on("nt"), self.replace(1000) as replace:
            with self.assertRaises(PermissionError):
                twosignal.replace_file("from", "to", self.clock)
        self.assertGreater(replace.call_count, 3)
        self.assertGreater(sum(self.naps), 0.3)
        self.assertLess(sum(self.naps), 2)

    def test_permanently_blocked_is_a_clear_failure(self):
        """Row 17: the old file stays, and no temporary file is left."""
        twosignal.write_text(self.file, "old")
        with self.replace(1000):
            self.assertRefused(lambda: twosignal.write_text(self.file, "new"), self.file)
        self.assertEqual((file_bytes(self.file), self.leftovers()), (b"old", []))

    def test_elsewhere_it_is_an_error_at_once(self):
        """Row 17: on other systems no reader blocks a replacement."""
        with self.on("posix"), self.replace(1) as replace:
            with self.assertRaises(PermissionError):
                twosignal.replace_file("from", "to", self.clock)
        self.assertEqual(replace.call_count, 1)

    def test_other_errors_are_not_retried(self):
        """Row 17: only a blocked replacement is."""
        with self.on("nt"), mock.patch("os.replace", side_effect=OSError(28, "full")) as replace:
            with self.assertRaises(OSError):
                twosignal.replace_file("from", "to", self.clock)
        self.assertEqual(replace.call_count, 1)

    def locking(self, taken, calls, error=errno.EACCES):
        """A module like msvcrt: a byte is locked by one handle, until that one is closed."""
        def lock(handle, kind, size):
            file = os.fstat(handle)
            if stat.S_ISDIR(file.st_mode):      # which Windows cannot even open
                raise OSError(errno.EBADF, "Bad file descriptor")
            position = os.lseek(handle, 0, os.SEEK_CUR)
            calls.append((kind, position, size))
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
            with twosignal.Spending(time.monotonic() + 60):
                self.assertEqual(calls, [(2, 0, 1)])
                waiting = twosignal.Spending(time.monotonic())
                self.assertRefused(waiting.__enter__, "session.lock", code="LOCKED")
            taken.clear()               # the system does so when the handle is closed
            with twosignal.Spending(time.monotonic() + 60):
                pass

    def test_lock_waits_there(self):
        """Row 17: EACCES and EAGAIN mean that another process holds it."""
        for error in (errno.EACCES, errno.EAGAIN):
            taken = {}
            with self.locking(taken, [], error):
                with twosignal.Spending(time.monotonic() + 60):
                    clock = EventfulClock(taken.clear)
                    with twosignal.Spending(time.monotonic() + 60, clock):
                        self.assertEqual(len(taken), 1)
            self.assertEqual(clock.naps, [0.02])


# Acquires the lock, prints a line, and holds it until stdin ends.
HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import twosignal
with twosignal.Spending(time.monotonic() + 60):
    print("held", flush=True)
    sys.stdin.read()
"""
# Increments a number in a file, each time under the lock; a line on stdin starts it.
COUNT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import twosignal
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    with twosignal.Spending(time.monotonic() + 300):
        with open(sys.argv[2]) as file:
            number = int(file.read())
        with open(sys.argv[2], "w") as file:
            file.write(str(number + 1))
"""


class Locking(StateCase):
    def test_increments_are_not_lost(self):
        """Row 2: processes that increment a number under the lock overwrite no step of another."""
        processes, times = full((4, 100), (8, 500))
        path = self.write("count", b"0")
        children = [self.child(COUNT, path, str(times)) for _ in range(processes)]
        for child in children:
            self.assertEqual(child.stdout.readline(), "ready\n")
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            self.assertEqual(child.wait(600), 0)
        self.assertEqual(file_bytes(path), b"%d" % (processes * times))

    def test_lock_file_is_never_replaced_or_deleted(self):
        """Row 2: it is a file of its own; saving, refreshing and deleting leave it alone."""
        deadline = time.monotonic() + 60
        with twosignal.Spending(deadline):
            path = os.path.join(self.home, "session.lock")
            first = os.stat(path)
        self.save_session(twosignal.Session(dict(SESSION)))
        twosignal.save_config({"api_url": "https://one.example.com"})
        self.forget_session()
        self.assertEqual(os.stat(path).st_ino, first.st_ino)

    @posix
    def test_deleted_while_it_is_held(self):
        """Row 61: a new file is no second lock, since the directory is locked, too."""
        path = os.path.join(self.home, "session.lock")
        with twosignal.Lock(path, time.monotonic()):
            os.unlink(path)
            another = twosignal.Lock(path, time.monotonic())
            self.assertRefused(another.__enter__, "session.lock", code="LOCKED")
        with twosignal.Lock(path, time.monotonic()) as lock:
            self.assertEqual(os.fstat(lock.handle).st_ino, os.stat(path).st_ino)

    @posix
    def test_directory_that_cannot_be_locked(self):
        """Row 61: who waits for a lock file that is gone then does not count as its holder."""
        lock = twosignal.lock_handle

        def lock_file(handle):      # as on network file systems
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(errno.EBADF, "Bad file descriptor")
            lock(handle)
        self.enter(mock.patch("twosignal.lock_handle", lock_file))
        path, order = os.path.join(self.home, "session.lock"), []
        held = contextlib.ExitStack()
        self.addCleanup(held.close)
        held.enter_context(twosignal.Spending(time.monotonic() + 60))

        def replaced():
            if not order:           # another process creates and locks a new one
                os.unlink(path)
                other = self.enter(twosignal.Lock(path, time.monotonic()))
                order.append(os.fstat(other.handle).st_ino)
                held.close()
                self.addCleanup(os.close, os.dup(other.handle))
        waiting = twosignal.Spending(time.monotonic() + 0.2, EventfulClock(replaced))
        self.assertRefused(waiting.__enter__, "session.lock", code="LOCKED")
        self.assertEqual(order, [os.stat(path).st_ino])

    @posix
    def test_waiting_for_a_file_that_is_deleted(self):
        """Row 61: who waits goes on waiting for its holder, and then locks the file at the path."""
        path = os.path.join(self.home, "session.lock")
        held = contextlib.ExitStack()
        self.addCleanup(held.close)
        held.enter_context(twosignal.Lock(path, time.monotonic() + 60))
        steps = []

        def deleted_and_then_released(_):
            steps.append(os.path.exists(path))
            if len(steps) == 1:
                os.unlink(path)
            elif len(steps) == 5:
                held.close()
        clock = types.SimpleNamespace(sleep=deleted_and_then_released, monotonic=time.monotonic)
        with twosignal.Lock(path, time.monotonic() + 60, clock) as lock:
            self.assertEqual(steps[:5], [True] + 4 * [False])
            self.assertEqual(os.fstat(lock.handle).st_ino, os.stat(path).st_ino)

    @posix
    def test_one_lock_for_homes_that_share_a_session(self):
        """Row 61: it is beside the file that session.json links to."""
        other = self.path("other")
        os.mkdir(other, 0o700)
        os.symlink(self.file, os.path.join(other, "session.json"))
        with twosignal.Spending(time.monotonic() + 60):
            with mock.patch.dict(os.environ, TWOSIGNAL_HOME=other):
                self.assertRefused(twosignal.Spending(time.monotonic()).__enter__,
                                   self.home, code="LOCKED")
        self.assertEqual(os.listdir(other), ["session.json"])

    def test_waits_until_it_is_free(self):
        """Row 2: also between threads of one process."""
        order, waiting = [], threading.Event()

        def second():
            with twosignal.Spending(time.monotonic() + 60, EventfulClock(waiting.set)):
                order.append("second")
        thread = threading.Thread(target=second, daemon=True)
        with twosignal.Spending(time.monotonic() + 60):
            thread.start()
            self.assertTrue(waiting.wait(DEADLINE))
            order.append("first")
        thread.join(DEADLINE)
        self.assertEqual(order, ["first", "second"])

    def test_waiting_ends(self):
        """Row 4: at the deadline, with a hint."""
        child = self.child(HOLD)
        self.assertEqual(child.stdout.readline(), "held\n")
        lock = twosignal.Spending(time.monotonic() + 0.2, self.clock)
        failure = self.assertRefused(lock.__enter__, "session.lock", code="LOCKED")
        self.assertEqual(failure.exit_code, 3)
        self.assertTrue(failure.hint)
        self.assertTrue(self.naps)

    def test_dead_holder_blocks_nobody(self):
        """Row 5: the lock of a process that was killed is free."""
        child = self.child(HOLD)
        self.assertEqual(child.stdout.readline(), "held\n")
        child.kill()
        child.wait()
        with twosignal.Spending(time.monotonic(), self.clock):
            self.assertEqual(self.naps, [])

    def test_free_after_an_exception(self):
        """Row 5: whatever ends the block, the lock is free."""
        with self.assertRaises(KeyboardInterrupt):
            with twosignal.Spending(time.monotonic() + 60):
                raise KeyboardInterrupt
        lock = twosignal.Lock(os.path.join(self.home, "session.lock"), time.monotonic() + 60)
        with self.locking_fails(KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, lock.__enter__)
        self.assertRaises(OSError, os.fstat, lock.handle)       # closed
        with twosignal.Spending(time.monotonic(), self.clock):
            self.assertEqual(self.naps, [])

    def locking_fails(self, error):
        """The system's function that locks a file raises the error."""
        function = "msvcrt.locking" if os.name == "nt" else "fcntl.flock"
        return mock.patch(function, side_effect=error)

    def test_locking_is_impossible(self):
        """Row 12: a system that cannot lock, and a path where no file can be: clear failures."""
        for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            with self.locking_fails(OSError(number, os.strerror(number))):
                self.assertRefused(twosignal.Spending(time.monotonic()).__enter__,
                                   "session.lock", os.strerror(number), "TWOSIGNAL_HOME")
        path = os.path.join(self.home, "session.lock")
        os.unlink(path)
        os.mkdir(path)
        self.assertRefused(twosignal.Spending(time.monotonic()).__enter__, path)


class DeferredSignals(StateCase):
    NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    @posix
    def test_signal_waits_for_the_end_of_the_block(self):
        """Row 6: it is delivered when the block ends, neither earlier nor never."""
        for name in self.NAMES:
            number, delivered = getattr(signal, name), []
            before = signal.signal(number, lambda *_: delivered.append(number))
            try:
                with twosignal.deferred_signals():
                    os.kill(os.getpid(), number)
                    self.assertEqual(delivered, [])
                self.assertEqual(delivered, [number])
                os.kill(os.getpid(), number)
                self.assertEqual(len(delivered), 2)
            finally:
                signal.signal(number, before)

    @posix
    def test_interrupt_is_raised_afterwards(self):
        """Row 6: also if the block raises an error of its own."""
        with kept_signals():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for error in (None, ValueError):
                with self.assertRaises(KeyboardInterrupt):
                    with twosignal.deferred_signals():
                        os.kill(os.getpid(), signal.SIGINT)
                        if error:
                            raise error

    @posix
    def test_ignored_signals_stay_ignored(self):
        """Row 6: as under nohup."""
        with kept_signals():
            for name in self.NAMES:
                signal.signal(getattr(signal, name), signal.SIG_IGN)
            with twosignal.deferred_signals():
                for name in self.NAMES:
                    os.kill(os.getpid(), getattr(signal, name))
            for name in self.NAMES:
                self.assertIs(signal.getsignal(getattr(signal, name)), signal.SIG_IGN)

    def test_works_in_other_threads(self):
        """Row 6: only the main thread can install handlers; in another one the block just runs."""
        done = []

        def work():
            with twosignal.deferred_signals():
                done.append(True)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(DEADLINE)
        self.assertEqual(done, [True])


class OutputFiles(TracesCase):
    def content(self, path):
        with open(path, "rb") as file:
            return file.read().decode("utf-8")

    def files(self):
        """The names of everything in the temporary directory but the home."""
        return sorted(set(os.listdir(self.folder)) - {"home"})

    def test_same_content_as_stdout(self):
        self.add(105, tags=["東京"])
        path = self.path("out")
        for form in ("table", "json", "jsonl", "csv", "tsv"):
            # Times in a table are relative only on stdout.
            options = ("--format", form, "--all") + (
                ("--fields", "id,name,tags") if form == "table" else ())
            expected = self.assertOk(self.list(*options)).out
            for flags in (("-o", path), ("--output=" + path,)):
                with self.subTest(form=form, flags=flags):
                    result = self.assertOk(self.list(*options + flags))
                    self.assertEqual((result.out, self.content(path)), ("", expected))
        self.assertEqual(self.files(), ["out"])

    def test_utf8_whatever_the_encoding_of_stdout(self):
        self.server.add_trace(name="東京 🤖")
        self.assertOk(self.list("--json", "-o", self.path("out"), encoding="ascii"))
        self.assertIn('"東京 🤖"', self.content(self.path("out")))

    def test_failure_halfway_changes_nothing(self):
        self.add(120)
        path, forms = self.path("out"), ("jsonl", "html", "table", "json", "csv", "markdown")
        kinds = ((dict(status=403), 5), (dict(status=401), 4), (dict(status=500), 8),
                 (dict(cut=100), 3), (dict(garbage=b"{"), 8), (dict(reset=True), 3))
        for place, (what, code) in enumerate(kinds):
            for form in full((forms[place % len(forms)],), forms):
                for before in (None, "before"):
                    if before:
                        self.write("out", before)
                    with self.subTest(form=form, before=before, **what):
                        with fails_from(self.server, 2, **what):
                            result = self.list("--all", "--format", form, "-o", path)
                        self.assertFails(result, code)
                        self.assertEqual(self.files(), ["out"] if before else [])
                        self.assertEqual(before and self.content(path), before)
                os.unlink(path)

    def test_failure_at_the_start(self):
        path = self.write("out", "before")
        self.server.fault("trace.list", status=403)
        self.assertFails(self.list("-o", path), 5)
        self.assertEqual((self.files(), self.content(path)), (["out"], "before"))

    @posix
    def test_ctrl_c_halfway(self):
        self.add(250)
        path = self.write("out", "before")
        self.enter(kept_signals())
        heed_interrupts()
        respond = self.server.answer

        def interrupt(request):
            if "cursor" in request.target:
                os.kill(os.getpid(), signal.SIGINT)
            return respond(request)

        with mock.patch.object(self.server, "answer", interrupt):
            result = self.list("--all", "--format", "jsonl", "-o", path)
        self.assertEqual((result.code, result.out), (130, ""))
        self.assertEqual((self.files(), self.content(path)), (["out"], "before"))

    def test_full_disk(self):
        self.add(3)
        path = self.write("out", "before")
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            self.assertFails(self.list("-o", path), 1, path, "No space left on device")
        self.assertEqual((self.files(), self.content(path)), (["out"], "before"))

    def test_paths_that_cannot_be_written(self):
        self.add(1)
        self.write("file", "before")
        os.mkdir(self.path("folder"))
        self.write(os.path.join("folder", "inside"), "before")
        self.server.clear()
        for name in ("missing/out", "file/out", "folder", "folder/", "missing/"):
            with self.subTest(name=name):
                path = self.path(*name.split("/"))
                self.assertFails(self.list("-o", path), 1, path)
                self.assertEqual(self.files(), ["file", "folder"])
        self.assertEqual(os.listdir(self.path("folder")), ["inside"])

    @unittest.skipUnless(hasattr(os, "geteuid") and os.geteuid(), "root may write everywhere")
    def test_directory_of_somebody_else(self):
        os.mkdir(self.path("folder"), 0o500)
        self.assertFails(self.list("-o", self.path("folder", "out")), 1, "Permission denied")

    @unittest.skipIf(os.name == "nt", "modes and links of POSIX")
    def test_permissions(self):
        self.add(1)
        path, before = self.path("out"), os.umask(0o027)
        try:
            self.assertOk(self.list("-o", path))
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)
            for mode in (0o600, 0o644, 0o666, 0o755, 0o444):
                os.chmod(path, mode)
                with self.subTest(mode=oct(mode)):
                    self.assertOk(self.list("-o", path))
                    self.assertEqual(os.stat(path).st_mode & 0o777, mode)
        finally:
            os.umask(before)

    @unittest.skipIf(os.name == "nt", "modes and links of POSIX")
    def test_symbolic_links(self):
        self.add(1)
        os.mkdir(self.path("folder"))
        target = self.write(os.path.join("folder", "target"), "before")
        for place in (target, os.path.join("folder", "target"), self.path("folder", "new")):
            link = self.path("link")
            os.symlink(place, link)
            with self.subTest(place=place):
                self.assertOk(self.list("--json", "-o", link))
                self.assertEqual(os.readlink(link), place)
                self.assertEqual(len(json.loads(self.content(link))), 1)
            os.unlink(link)
        self.assertEqual(sorted(os.listdir(self.path("folder"))), ["new", "target"])

    @unittest.skipUnless(os.path.exists("/dev/null"), "needs /dev/null")
    def test_devices_stay_devices(self):
        self.add(3)
        self.assertEqual(self.assertOk(self.list("-o", "/dev/null")).out, "")
        self.assertFalse(os.path.isfile("/dev/null"))
        self.assertOk(self.list("--format", "csv", "--all", "-o", "/dev/null"))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_full_device(self):
        self.add(3)
        self.assertFails(self.list("-o", "/dev/full"), 1, "/dev/full", "No space left on device")

    @unittest.skipUnless(hasattr(os, "mkfifo"), "needs named pipes")
    def test_named_pipe(self):
        self.add(150)
        path = self.path("pipe")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(reader, "rb") as pipe:
            self.assertOk(self.list("--all", "--fields", "name", "--format", "jsonl", "-o", path))
            self.assertEqual(len(pipe.read().splitlines()), 150)
        self.assertEqual(self.files(), ["pipe"])

    def test_relative_paths_and_unusual_names(self):
        self.add(1)
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            for name in ("out", "-x", "東 京.json", "a\nb"):
                with self.subTest(name=name):
                    self.assertOk(self.list("--json", "-o", name))
                    self.assertEqual(len(json.loads(self.content(self.path(name)))), 1)
        finally:
            os.chdir(before)

    def test_other_commands(self):
        path = self.path("out")
        self.assertOk(self.cli("orgs", "list", "--json", "-o", path))
        self.assertEqual(json.loads(self.content(path))[0]["id"], self.server.org)
        result = self.cli("traces", "check", "--max-p95", "1s", "--project", self.server.project,
                          "--json", "-o", path)
        self.assertEqual((result.code, json.loads(self.content(path))["passed"]), (11, False))


@unittest.skipIf(os.name == "nt", "signals and devices differ there")
class OutputDevices(ProcessCase):
    def test_a_change_waits_for_the_file(self):
        """Row 12: with -o, no change is made before it is known that the file can be written."""
        for path in (self.path("nowhere", "x"), self.folder, self.path("x" * 300)):
            with self.subTest(path=path):
                result = self.cli("api-keys", "create", "-n", "CI", "-o", path)
                self.assertFails(result, 1, "Cannot write", path)
        self.assertEqual(requests_of(self.server, "apiKey.create"), [])

    MAKERS = (("apiKey.create", ["api-keys", "create", "-n", "CI"]),
              ("organization.create", ["orgs", "create", "New"]),
              ("apiKey.create", ["api", "apiKey.create", "--mutation", "--input", "@INPUT"]))

    def makers(self):
        """(procedure, command) of some changes whose result is shown once."""
        given = json.dumps({"projectId": self.server.project, "name": "CI"})
        for procedure, command in self.MAKERS:
            self.server.clear()
            yield procedure, [given if each == "@INPUT" else each for each in command]

    def test_a_target_that_cannot_be_replaced(self):
        """Row 64: such as a mount or an immutable file: known before the change."""
        for before in (None, "before"):
            for function, number in (
                    ("os.replace", errno.EBUSY), ("os.replace", errno.EPERM),
                    ("os.fsync", errno.ENOSPC), ("tempfile.mkstemp", errno.EACCES)):
                if before is None and function == "os.replace":
                    continue            # a file that can be created can be renamed
                for procedure, command in self.makers():
                    path = self.write("out", before) if before else self.path("out")
                    error = OSError(number, os.strerror(number))
                    with self.subTest(function=function, command=command, before=before):
                        with mock.patch(function, side_effect=error):
                            self.assertFails(self.cli(*command, "-o", path), 1, path)
                        self.assertEqual(requests_of(self.server, procedure), [])
                        self.assertEqual(os.path.exists(path), before is not None)
                        self.assertNothingLeft()
                    if before:
                        self.assertEqual(file_bytes(path), b"before")
                        os.unlink(path)

    def test_a_file_that_fails_after_the_change(self):
        """Row 64: what it was to hold is printed on stdout, and the error says so."""
        for function in ("os.replace", "os.fsync"):
            for procedure, command in self.makers():
                path, real = self.path("out"), getattr(os, function[3:])

                def failing(*args):
                    if self.server.count(procedure):
                        raise OSError(errno.EIO, "Input/output error")
                    return real(*args)
                with self.subTest(function=function, command=command), \
                        mock.patch(function, failing):
                    result = self.cli(*command, "--json", "-o", path)
                    self.assertEqual(result.code, 1, result)
                    self.assertIn("on stdout", result.error["hint"])
                    self.assertIn("id", json.loads(result.out))
                    self.assertFalse(os.path.exists(path))

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_a_key_and_a_full_device(self):
        """Row 64: a key is never lost."""
        for _, command in self.makers():
            result = self.cli(*command, "--json", "-o", FULL_DISK)
            self.assertEqual(result.code, 1, result)
            self.assertIn("No space left on device", result.err)
            self.assertIn("id", json.loads(result.out))

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_a_key_and_a_full_device_in_every_format(self):
        """Row 64: all of the result is shown elsewhere, also if its first line fails."""
        for form in ("table", "csv", "jsonl", "markdown", "html"):
            for env in ({}, {"PYTHONUNBUFFERED": "1"}):
                with self.subTest(format=form, env=env):
                    result = self.run_process("api-keys", "create", "-n", "CI", "--format", form,
                                              "-o", FULL_DISK, env=env)
                    self.assertEqual(result.code, 1, result)
                    self.assertRegex(result.out, r"(?s)ts_\w+.*\n\Z")
                    self.assertIn("The result is on stdout instead.", result.err)

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_a_full_stdout(self):
        """Row 64: a terminal gets the result in its place; a log does not, and is told."""
        command = ["api-keys", "create", "-n", "CI"]
        for options in ([], ["-o", FULL_DISK], ["-o", "/dev/stdout"]):
            for env in ({}, {"PYTHONUNBUFFERED": "1"}):
                with self.subTest(options=options, env=env):
                    result = self.in_shell(">/dev/full", *command + options, env=env)
                    self.assertFails(result, 1, "Cannot write", "The change was made",
                                     "twosignal api-keys list")
                    self.assertNotRegex(result.err, r"ts_\w{9}")
                    output, code = pty_run(
                        ["/bin/sh", "-c", IN_SHELL, "sh", ">/dev/full", sys.executable, PROGRAM]
                        + command + options, env=merged(self.environment, env))
                    self.assertEqual(code, 1)
                    self.assertRegex(output, r"ts_\w{9}")
                    self.assertIn("The result is on stderr instead.", output)

    def test_a_reader_of_stdout_that_is_gone(self):
        """Row 64: no key is made for nobody."""
        result = self.run_command_without_reader("api-keys", "create", "-n", "CI")
        self.assertEqual((result.code, result.err), (141, ""))
        self.assertEqual(self.server.requests, [])
        result = self.run_command_without_reader("orgs", "list")
        self.assertEqual((result.code, result.err), (141, ""))

    def run_command_without_reader(self, *args):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            run = subprocess.run([sys.executable, PROGRAM] + list(args), env=self.environment,
                                 stdout=writing, stderr=subprocess.PIPE)
        finally:
            os.close(writing)
        return Result(run.returncode, "", as_text(run.stderr))

    def test_room_that_is_not_needed(self):
        """Row 64: what is reserved before a change is not in the file afterwards."""
        for before in (None, "x" * 20000):
            path = self.write("out", before) if before else self.path("out")
            self.assertOk(self.cli("api-keys", "create", "-n", "CI", "--json", "-o", path))
            content = file_bytes(path)
            self.assertIn("key", json.loads(content.decode()))
            self.assertTrue(content.endswith(b"}\n"))

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_full_device(self):
        """Row 39: -o /dev/full is a one-line error."""
        for args in (["orgs", "list"], ["traces", "list", "--json"]):
            result = self.cli(*args + ["-o", FULL_DISK])
            self.assertFails(result, 1, "Cannot write", FULL_DISK)

    @unittest.skipUnless(os.path.exists("/dev/stdout"), "needs /dev/stdout")
    def test_names_of_open_files(self):
        """-o /dev/stdout appends to what a redirected file contains already."""
        for name in ("/dev/stdout", "/dev/fd/1", "/dev/stderr"):
            path = self.write("log", "before\n")
            with open(path, "ab") as log:
                subprocess.check_call([sys.executable, PROGRAM, "orgs", "list", "-o", name],
                                      stdout=log, stderr=log, env=self.environment)
            with open(path, encoding="utf-8") as log:
                text = log.read()
            with self.subTest(name=name):
                self.assertTrue(text.startswith("before\nID "), text)
        self.assertFails(self.cli("orgs", "list", "-o", "/dev/fd/999"), 1, "/dev/fd/999")

    @unittest.skipIf(os.name == "nt", "a working directory cannot be deleted there")
    def test_deleted_working_directory(self):
        script = "mkdir gone && cd gone && rmdir ../gone && exec \"$@\""
        for option in ("-o", "--junit"):
            result = run_command(["/bin/sh", "-c", script, "sh", sys.executable, PROGRAM, "traces",
                                  "check", "--max-cost", "9", option, "out"],
                                 self.environment, cwd=self.folder)
            self.assertFails(result, 1, "Cannot write out")

    def test_format_by_the_file_extension(self):
        for name, options, start in (
                ("a.csv", (), "id,"), ("a.tsv", (), "id\t"), ("a.json", (), "[\n"),
                ("a.jsonl", (), '{"id"'), ("a.CSV", (), "id,"), ("a.txt", (), "ID  "),
                ("a.ndjson", (), '{"id"'), ("a.log", (), "ID  "),
                ("csv", (), "ID  "), ("a.csv", ("--json",), "[\n"),
                ("a.json", ("--format", "table"), "ID  ")):
            with self.subTest(name=name, options=options):
                self.assertOk(self.cli("orgs", "list", "-o", self.path(name), *options))
                with open(self.path(name), encoding="utf-8") as file:
                    self.assertTrue(file.read().startswith(start))

    def test_interrupted(self):
        """Row 40: Ctrl-C, SIGTERM and SIGHUP while a file is written leave no file, nor a part."""
        def signalled(number):
            def fetch_parts(*args, **kwargs):
                os.kill(os.getpid(), number)
                raise AssertionError("the signal was not delivered")
            return fetch_parts
        codes = {signal.SIGINT: 130, signal.SIGTERM: 143}
        if hasattr(signal, "SIGHUP"):
            codes[signal.SIGHUP] = 129
        for number, code in codes.items():
            before = signal.signal(number, signal.default_int_handler)
            try:
                self.server.fault("trace.list", status=200, body=json_page("more"))
                with mock.patch("twosignal.Client.fetch_parts", signalled(number)), \
                        mock.patch("twosignal.lacks", return_value=True):
                    result = self.cli("traces", "list", "--all", "--format", "jsonl", "-o",
                                      self.path("out"))
            finally:
                signal.signal(number, before)
            self.assertEqual((result.code, result.err.strip()), (code, ""), result)
            self.assertEqual([name for name in os.listdir(self.folder) if name != "home"], [])
