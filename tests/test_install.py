"""`twosignal install`: where it writes, what the executable contains, and how it is replaced."""
import errno
import functools
import glob
import io
import marshal
import os
import re
import subprocess
import sys
import unittest
import zipfile
from unittest import mock

import twosignal
from tools import (ROOT, SCRIPT, Case, executable, file_bytes, full, listing, run_command,
                   write_script)

VERSION = f"twosignal {twosignal.__version__} (Python "
CHANGED = b"print('compiled from the source')\nmain = int\n"
# Compiling takes most of the time of an installation; the module is the same in each.
_compiled_once = functools.lru_cache(None)(twosignal.bytecode)


def python_versions():
    """Paths of other Pythons on this machine from 3.6 on, by (major, minor)."""
    found = {}
    folders = os.environ.get("PATH", "").split(os.pathsep)
    folders += glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))
    script = "import sys; print(sys.version_info[0], sys.version_info[1])"
    for path in (path for folder in folders for path in glob.glob(folder + "/python3*")):
        if not re.search(r"/python3(\.\d+)?$", path) or not os.access(path, os.X_OK):
            continue
        done = subprocess.run([path, "-c", script], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
        version = tuple(map(int, done.stdout.split()))
        if not done.returncode and version >= (3, 6) and version != sys.version_info[:2]:
            found.setdefault(version, path)
    return found


def split_executable(content):
    """The first line of an executable, and {name: content} of the files in it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return content.partition(b"\n")[0].decode(), files


def decoded(content):
    """What has to be equal in two executables of the same source: marshal may vary its bytes."""
    line, files = split_executable(content)
    header_size = 16 if sys.version_info >= (3, 7) else 12
    bytecode = files.pop("twosignal.pyc")
    return line, files, bytecode[:header_size], marshal.loads(bytecode[header_size:])


def with_source(content, source):
    """The executable with another source beside the same bytecode."""
    line, files = split_executable(content)
    buffer = io.BytesIO()
    buffer.write(line.encode() + b"\n")
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in dict(files, **{"twosignal.py": source}).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


@unittest.skipIf(os.name == "nt", "#! lines, permissions and links are of POSIX")
class InstallCase(Case):
    """A test that installs into the temporary directory, which is HOME too."""

    def setUp(self):
        super().setUp()
        self.bin = self.path("bin")
        self.target = os.path.join(self.bin, "twosignal")
        self.enter(mock.patch("twosignal.bytecode", _compiled_once))

    def install(self, *args, **kwargs):
        return self.run_cli("install", *args, **kwargs)

    def installed(self, *args, **kwargs):
        """The path of an executable that was installed without an error."""
        result = self.assertOk(self.install("--json", *args, **kwargs))
        return result.json["path"]

    def run_executable(self, path, *args, env=None, **kwargs):
        return run_command([path] + list(args), dict(self.environment, **(env or {})), **kwargs)

    def assertRuns(self, path, **kwargs):
        result = self.assertOk(self.run_executable(path, "--version", **kwargs), "")
        self.assertTrue(result.out.startswith(VERSION), result)

    def assertOnlyOld(self, content=b"old"):
        """The old executable is intact, and no other file is beside it."""
        self.assertEqual(os.listdir(self.bin), ["twosignal"])
        self.assertEqual(file_bytes(self.target), content)

    def add_old(self):
        os.makedirs(self.bin, exist_ok=True)
        self.write("bin/twosignal", b"old")


class InstallLocations(InstallCase):
    def test_default_directory(self):
        """~/.local/bin, which is created; a line says what was installed where."""
        path = self.path(".local", "bin", "twosignal")
        result = self.assertOk(self.install())
        self.assertEqual(result.out, f"Installed twosignal {twosignal.__version__} as {path}.\n")
        self.assertEqual(listing(self.path(".local")), ["bin", "bin/twosignal"])
        self.assertRuns(path)

    def test_named_directory(self):
        """Absolute, relative, below HOME, missing, and there already."""
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        os.mkdir(self.path("there"))
        for directory, place in ((self.bin, "bin"), (os.path.join("a", "b"), "a/b"),
                                 ("~/mine", "mine"), ("there", "there"), ("./there/", "there"),
                                 ("a b $x", "a b $x")):
            with self.subTest(directory=directory):
                self.assertEqual(self.installed(directory), self.path(place, "twosignal"))
                self.assertRuns(self.path(place, "twosignal"))

    def test_no_home_directory(self):
        """Row 37: nothing is written into the working directory or into `/`."""
        os.mkdir(self.path("current"))
        before = os.getcwd(), sorted(os.listdir("/"))
        os.chdir(self.path("current"))
        self.addCleanup(os.chdir, before[0])
        for home in (None, "", "here", "~nobody-has-this-name"):
            with self.subTest(home=home):
                with mock.patch("pwd.getpwuid", side_effect=KeyError("uid not found")):
                    for args in ((), ("~/bin",)):
                        self.assertFails(self.install(*args, env={"HOME": home}), 1,
                                         "home directory", "twosignal install DIR")
                self.assertEqual(os.listdir("."), [])
                self.assertEqual(sorted(os.listdir("/")), before[1])
        self.assertFails(self.install("~nobody-has-this-name/bin"), 1, "~nobody-has-this-name/bin")
        self.assertEqual(os.listdir("."), [])
        with mock.patch("pwd.getpwuid", return_value=mock.Mock(pw_dir=self.path("known"))):
            self.assertEqual(self.installed(env={"HOME": ""}),
                             self.path("known", ".local", "bin", "twosignal"))

    def test_directories_that_cannot_be_written(self):
        self.write("file", b"mine")
        os.makedirs(self.path("full", "twosignal"))
        for directory, path, reason in (
                ("file", "file", "File exists"), ("file/bin", "file", "File exists"),
                ("full", "full/twosignal", "Is a directory")):
            with self.subTest(directory=directory):
                self.assertFails(self.install(self.path(directory)), 1,
                                 f"Cannot write {self.path(path)}: {reason}",
                                 "Name a directory that you can write to")
        self.assertEqual(listing(self.folder), ["file", "full", "full/twosignal", "home"])

    @unittest.skipUnless(os.path.isdir("/proc/self"), "needs a directory that nobody can write")
    def test_read_only_directory(self):
        self.assertFails(self.install("/proc/self/bin"), 1, "Cannot write /proc/self/bin")
        self.assertFails(self.install("/proc/self"), 1, "Cannot write /proc/self/twosignal")

    def test_empty_name(self):
        self.assertFails(self.install(""), 2, "DIR")
        self.assertEqual(listing(self.folder), ["home"])

    def test_more_than_one_directory(self):
        self.assertFails(self.install(self.bin, "x"), 2, "Unexpected argument 'x'")
        self.assertFalse(os.path.exists(self.bin))


class InstalledFile(InstallCase):
    def test_contents(self):
        """A zip file behind a #! line for this Python: __main__.py, the source, its bytecode."""
        line, files = split_executable(file_bytes(self.installed(self.bin)))
        self.assertEqual(line, "#!" + sys.executable)
        self.assertEqual(sorted(files), ["__main__.py", "twosignal.py", "twosignal.pyc"])
        self.assertEqual(files["__main__.py"], twosignal.EXECUTABLE_MAIN)
        self.assertEqual(files["twosignal.py"], file_bytes(SCRIPT))

    def test_permissions(self):
        """0755, whatever the umask and whatever was there before."""
        for mask in (0o000, 0o022, 0o077, 0o777):
            before = os.umask(mask)
            try:
                os.makedirs(self.bin, exist_ok=True)
                os.chmod(self.bin, 0o755)
                path = self.installed(self.bin)
            finally:
                os.umask(before)
            self.assertEqual(oct(os.stat(path).st_mode & 0o777), oct(0o755))
            os.chmod(path, 0o600)

    def test_permissions_of_a_new_directory(self):
        before = os.umask(0o077)
        try:
            path = self.installed(self.path("new", "bin"))
        finally:
            os.umask(before)
        for directory in (os.path.dirname(path), self.path("new")):
            self.assertEqual(oct(os.stat(directory).st_mode & 0o777), oct(0o755))

    def first_line(self, interpreter):
        with mock.patch.object(sys, "executable", interpreter):
            path = self.installed(self.bin, env={"PATH": executable(self.path("path"))})
        self.assertRuns(path, env={"PATH": executable(self.path("path"))})
        return split_executable(file_bytes(path))[0]

    def test_interpreter_that_does_not_fit_into_the_first_line(self):
        """Blanks cannot be quoted there, and old kernels truncate it at 127 characters."""
        def link(name):
            os.symlink(sys.executable, self.path(name))
            return self.path(name)

        filler = "x" * (125 - len(self.path("")))
        fits, too_long = link(filler), link(filler + "x")
        self.assertEqual(len(fits), 125)
        self.assertEqual(self.first_line(fits), "#!" + fits)
        for interpreter in (too_long, link("my python"), link("a\tb"), "", None):
            with self.subTest(interpreter=interpreter):
                self.assertEqual(self.first_line(interpreter), "#!/usr/bin/env python3")


class ExecutableStarts(InstallCase):
    """What starts an executable that was installed once for all tests."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with mock.patch("twosignal.bytecode", _compiled_once):
            cls.content = twosignal.executable_content()

    def setUp(self):
        super().setUp()
        os.mkdir(self.bin)
        self.add(self.content)

    def add(self, content):
        os.chmod(self.write("bin/twosignal", content), 0o755)

    def test_version(self):
        """However it is started."""
        os.symlink("twosignal", os.path.join(self.bin, "link"))
        for start in ([self.target], [os.path.join(".", "twosignal")],
                      [os.path.join(self.bin, "link")], [sys.executable, "twosignal"],
                      [sys.executable, "-I", "-S", "twosignal"]):
            for word in ("--version", "version"):
                with self.subTest(start=start, word=word):
                    result = run_command(start + [word], self.environment, cwd=self.bin)
                    self.assertEqual(self.assertOk(result, "").out, twosignal.VERSION_LINE)

    def test_same_python_compiles_nothing(self):
        """The bytecode is used without a look at the source, with and without optimization."""
        self.add(with_source(self.content, CHANGED))
        for flags in ((), ("-O",), ("-OO",), ("-I",), ("-B",)):
            with self.subTest(flags=flags):
                result = run_command([sys.executable] + list(flags) + [self.target, "--version"],
                                     self.environment)
                self.assertTrue(self.assertOk(result, "").out.startswith(VERSION), result)

    def test_other_pythons_use_the_source(self):
        """From 3.6 on."""
        others = sorted(python_versions().items())
        if not others:
            self.skipTest("there is no other Python")
        for version, python in full(others[:1] + others[1:][-1:], others):
            with self.subTest(version=version):
                self.add(self.content)
                shown = "{}{}.{}.".format(VERSION, *version)
                result = run_command([python, self.target, "--version"], self.environment)
                self.assertTrue(self.assertOk(result, "").out.startswith(shown), result)
                self.add(with_source(self.content, CHANGED))
                result = run_command([python, self.target, "--version"], self.environment)
                self.assertEqual(result.out, "compiled from the source\n", result)

    def test_other_time_zones(self):
        """In 3.6 the time stamp of the bytecode depends on them."""
        for zone in ("UTC0", "JST-9", "PST8PDT"):
            self.assertRuns(self.target, env={"TZ": zone})

    def test_other_modules_of_that_name(self):
        """The SDK that agents import is called twosignal, too."""
        self.write("twosignal.py", b"raise SystemExit('the SDK')\n")
        self.assertRuns(self.target, env={"PYTHONPATH": self.folder}, cwd=self.folder)

    def test_nothing_is_written_on_start(self):
        self.assertRuns(self.target, cwd=self.bin)
        self.assertEqual(os.listdir(self.bin), ["twosignal"])

    def test_exit_code(self):
        result = self.run_executable(self.target, "no-such-command")
        self.assertFails(result, 2, "There is no command 'no-such-command'")


class InstallReplacement(InstallCase):
    def test_older_executable_is_replaced(self):
        self.add_old()
        self.assertRuns(self.installed(self.bin))
        self.assertEqual(os.listdir(self.bin), ["twosignal"])

    def test_symbolic_link_is_replaced(self):
        """Not its target, which may be another program's; nor is a broken one followed."""
        os.mkdir(self.bin)
        for target in (self.write("target", b"precious"), self.path("missing")):
            os.symlink(target, self.target)
            self.assertRuns(self.installed(self.bin))
            self.assertFalse(os.path.islink(self.target))
            os.unlink(self.target)
        self.assertEqual(file_bytes(self.path("target")), b"precious")
        self.assertFalse(os.path.exists(self.path("missing")))

    def test_replaced_atomically(self):
        """The complete new file is renamed within the directory."""
        self.add_old()
        steps, replace = [], os.replace

        def replaced(source, target):
            steps.append((os.path.dirname(source), target, file_bytes(target)))
            self.assertRuns(source)
            replace(source, target)
        with mock.patch("os.replace", replaced):
            self.installed(self.bin)
        self.assertEqual(steps, [(self.bin, self.target, b"old")])

    def test_write_errors(self):
        """Whichever step fails, the old one stays."""
        self.add_old()
        for function, number in (("tempfile.mkstemp", errno.EACCES), ("os.fsync", errno.ENOSPC),
                                 ("os.replace", errno.EPERM)):
            with self.subTest(function=function):
                error = OSError(number, os.strerror(number))
                with mock.patch(function, side_effect=error):
                    self.assertFails(self.install(self.bin), 1,
                                     f"Cannot write {self.target}: {os.strerror(number)}")
                self.assertOnlyOld()


class InstallRemarks(InstallCase):
    @property
    def remark(self):
        return f'Put its directory first on PATH: export PATH="{self.bin}:$PATH"\n'

    def path_variable(self, *folders):
        return {"PATH": os.pathsep.join(folders + (os.environ.get("PATH", os.defpath),))}

    def add_other(self, name):
        os.mkdir(self.path(name))
        return write_script(self.path(name, "twosignal"), ["true"])

    def test_directory_that_is_not_on_path(self):
        for env in ({}, self.path_variable(self.bin + "2"), self.path_variable("")):
            self.assertOk(self.install(self.bin, env=env), self.remark)

    def test_directory_on_path(self):
        """Also under another name, and if another one comes after it."""
        os.mkdir(self.bin)
        os.symlink(self.bin, self.path("link"))
        self.add_other("other")
        for folder in (self.bin, self.bin + os.sep, self.path("link")):
            self.assertOk(self.install(self.bin, env=self.path_variable(folder)), "")
            self.assertOk(self.install(self.bin, env=self.path_variable(
                folder, self.path("other"))), "")

    def test_another_one_comes_first(self):
        self.add_other("other")
        result = self.install(self.bin, env=self.path_variable(self.path("other"), self.bin))
        self.assertOk(result, self.remark)

    def test_link_to_it_comes_first(self):
        """Nothing is wrong with that."""
        os.mkdir(self.path("other"))
        os.symlink(self.target, self.path("other", "twosignal"))
        env = self.path_variable(self.path("other"), self.bin)
        self.assertOk(self.install(self.bin, env=env), "")

    def test_quiet(self):
        result = self.install("-q", self.bin)
        self.assertOk(result, "")
        self.assertEqual(result.out,
                         f"Installed twosignal {twosignal.__version__} as {self.target}.\n")

    def test_json(self):
        """The remark is on stderr; an error is JSON, too."""
        result = self.assertOk(self.install("--json", self.bin))
        self.assertEqual(result.json, {"path": self.target, "version": twosignal.__version__})
        self.assertEqual(result.err, self.remark)
        result = self.install("--json", self.write("file", b""))
        self.assertFails(result, 1, "Cannot write")
        self.assertEqual(result.error["code"], "FAILED")


class InstallSources(InstallCase):
    """Each way to start this program installs the same executable."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with mock.patch("twosignal.bytecode", _compiled_once):
            cls.content = twosignal.executable_content()
        cls.expected = decoded(cls.content)

    def assertInstalls(self, command, **kwargs):
        result = run_command(command + ["install", "-q", self.bin], self.environment, **kwargs)
        self.assertOk(result, "")
        self.assertEqual(os.listdir(self.bin), ["twosignal"])
        self.assertEqual(decoded(file_bytes(self.target)), self.expected)

    def copy(self, name):
        return self.write(name, file_bytes(SCRIPT))

    def test_script(self):
        self.assertInstalls([sys.executable, SCRIPT])

    def test_copy_without_extension(self):
        self.assertInstalls([sys.executable, self.copy("twosignal")])
        os.chmod(self.path("twosignal"), 0o755)
        python = {"PATH": executable(self.path("path"))}
        self.environment.update(python)
        self.assertInstalls([self.path("twosignal")])

    def test_module(self):
        """python3 -m twosignal"""
        self.assertInstalls([sys.executable, "-m", "twosignal"], cwd=ROOT)

    def test_console_script(self):
        """What pip writes for an entry point."""
        self.copy("twosignal.py")
        script = self.write("script", b"import sys\nfrom twosignal import main\nsys.exit(main())\n")
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"
        self.assertInstalls([sys.executable, script])

    def test_executable(self):
        """Into another directory, and over itself."""
        first = self.write("first", self.content)
        os.chmod(first, 0o755)
        self.assertInstalls([first])
        self.assertInstalls([self.target])

    def test_optimization(self):
        """Without docstrings an executable would have no help texts."""
        for flag in ("-O", "-OO"):
            self.assertInstalls([sys.executable, flag, SCRIPT])

    def test_line_endings(self):
        """No CR, which would be part of the interpreter's name in the #! line; git keeps it so."""
        self.assertNotIn(b"\r", file_bytes(SCRIPT))
        attributes = os.path.join(ROOT, ".gitattributes")
        if os.path.exists(attributes):
            self.assertIn(b"*.py text eol=lf", file_bytes(attributes).splitlines())

    def test_pipe(self):
        """There is no file to install."""
        source = file_bytes(SCRIPT)
        for args in (["-"], ["/dev/stdin"]):
            with self.subTest(args=args):
                result = run_command([sys.executable] + args + ["install", self.bin],
                                     self.environment, stdin=source)
                self.assertFails(result, 2, "Cannot install from a pipe",
                                 "Run: python3 twosignal.py install")
                self.assertFalse(os.path.exists(self.bin))
