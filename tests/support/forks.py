"""Commands as processes of their own that need no start-up: forks of one that has imported it all.

    with Forks("twosignal", environment) as forks:
        forks.run(["orgs", "list"], ["orgs", "list"])       # both at once

This file is also the script that forks: for each line of its stdin, it calls `main` of a module.
"""
import calendar  # noqa: F401 (like other imports here, it is what a command would import)
import html.entities  # noqa: F401
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading  # noqa: F401
import traceback
import urllib.request  # noqa: F401

SUPPORT = os.path.dirname(os.path.abspath(__file__))


class Forks:
    """Within the block, `run` runs `main(arguments)` of a module, which is on sys.path here."""

    def __init__(self, module, environment):
        self.module, self.environment = module, environment

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, "-S", __file__, self.module], env=self.environment,
            cwd=self.folder.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *exception):
        self.process.communicate(timeout=60)
        self.folder.cleanup()

    def run(self, *commands):
        """The Result of each command; its exit code is -N if signal N ended it."""
        self.process.stdin.write(json.dumps(commands).encode("ascii") + b"\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline().decode("ascii"))
        return [self.result(place, code) for place, code in enumerate(codes)]

    def result(self, place, code):
        from tools import Result, as_text, file_bytes       # the script has no use for all of it
        return Result(code, *[as_text(file_bytes(os.path.join(self.folder.name, name + str(place))))
                              for name in ("out", "err")])


def fork(place, command, arguments):
    """The ID of a process that calls a function, with files as its standard streams."""
    child = os.fork()
    if child:
        return child
    code = 255
    try:
        paths = os.devnull, "out%d" % place, "err%d" % place
        for number, path in enumerate(paths):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        code = command(arguments)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(child):
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main(module):
    sys.path[:0] = [SUPPORT, os.path.dirname(os.path.dirname(SUPPORT))]
    command = importlib.import_module(module).main
    for line in iter(sys.stdin.readline, ""):
        children = [fork(place, command, arguments)
                    for place, arguments in enumerate(json.loads(line))]
        print(json.dumps(list(map(wait, children))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
