"""The house rules for twosignal.py, read from its syntax tree; and what it imports at start-up."""
import ast
import re
import sys
import unittest

from tools import ROOT, SCRIPT, ServerCase, costly, run_command

SECTIONS = ("Constants", "Errors", "Text", "Records", "Rendering", "Files", "Settings",
            "Transport", "Protocol", "Session", "Client", "Console", "Arguments", "Traces",
            "Commands", "Entry")
BANNER = re.compile(r"^(#{20,})\n# (.*)\n#{20,}$", re.MULTILINE)
IMPORTED_AT_ONCE = {"_signal", "functools", "io", "json", "os", "re", "sys", "time"}
MAY_EXIT = ("Arguments", "Entry")       # sections that may print, exit and use argparse
MAX_FUNCTION = 31                       # lines, without decorators
MAX_CLASS = 250                         # lines
MAX_MODULE = 8836                       # lines
MIN_DOCUMENTED = 0.6                    # of all functions
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Modules that a command imports only if it needs them, since each delays the start.
EXPENSIVE = {"argparse", "csv", "datetime", "difflib", "email", "getpass", "html", "http",
             "http.client", "inspect", "random", "select", "shutil", "socket", "ssl", "subprocess",
             "tempfile", "threading", "traceback", "typing", "unicodedata", "urllib.request",
             "zipfile"}
LIST_MODULES = """
import sys
sys.path.insert(0, sys.argv.pop(1))
before = set(sys.modules)
import twosignal
code = twosignal.main()
sys.stdout.flush()
sys.stdout.write("\\nmodules: " + " ".join(set(sys.modules) - before))
sys.exit(code)
"""


####################################################################################################
# Names: where they are bound, and where a module's own names are used
####################################################################################################

class Use:
    """A use of a name that is no local one: at import time, or later, when a function runs."""

    def __init__(self, name, line, at_import):
        self.name = name
        self.line = line
        self.at_import = at_import


def bound_in(nodes):
    """{name: line} of what these statements bind, without what nested scopes bind."""
    found = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        for name in names_bound_by(node):
            found[name] = min(node.lineno, found.get(name, node.lineno))
        if isinstance(node, FUNCTIONS + (ast.ClassDef,)):
            waiting += outer_parts(node)
        elif not isinstance(node, (ast.Lambda,) + COMPREHENSIONS):
            waiting += ast.iter_child_nodes(node)
    return found


def names_bound_by(node):
    """The names that this node itself binds in its scope."""
    if isinstance(node, FUNCTIONS + (ast.ClassDef,)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(each.asname or each.name).partition(".")[0] for each in node.names]
    if isinstance(node, ast.ExceptHandler):
        return [node.name] if node.name else []
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    return []


def parameters(function):
    """The names of the parameters of a function or lambda."""
    given = function.args
    nodes = getattr(given, "posonlyargs", []) + given.args + given.kwonlyargs
    nodes += [each for each in (given.vararg, given.kwarg) if each]
    return [each.arg for each in nodes]


def outer_parts(node):
    """What a function, lambda or class evaluates in the scope around it."""
    parts = list(getattr(node, "decorator_list", []))
    if isinstance(node, ast.ClassDef):
        return parts + node.bases + [each.value for each in node.keywords]
    given = node.args
    every = getattr(given, "posonlyargs", []) + given.args + given.kwonlyargs
    every += [each for each in (given.vararg, given.kwarg) if each]
    parts += [each.annotation for each in every if each.annotation]
    parts += given.defaults + [each for each in given.kw_defaults if each]
    return parts + ([node.returns] if getattr(node, "returns", None) else [])


def locals_of(function):
    """The local names of a function, without those of the functions within it."""
    body = function.body if isinstance(function.body, list) else [function.body]
    names = set(parameters(function)) | set(bound_in(body))
    for node in body:
        for each in ast.walk(node):
            if isinstance(each, ast.Global):
                names -= set(each.names)
    return names


def targets_of(comprehension):
    return set(bound_in([each.target for each in comprehension.generators]))


def global_uses(tree):
    """A Use for each place where a name is read that is local to no function around it."""
    found = []

    def visit(node, names, class_names, at_import):
        """names: local ones of the functions around; class_names: those of the class body."""
        if isinstance(node, FUNCTIONS + (ast.Lambda,)):
            for part in outer_parts(node):
                visit(part, names, class_names, at_import)
            body = node.body if isinstance(node.body, list) else [node.body]
            for part in body:
                visit(part, names | locals_of(node), set(), False)
        elif isinstance(node, ast.ClassDef):
            for part in outer_parts(node):
                visit(part, names, class_names, at_import)
            for part in node.body:
                visit(part, names, set(bound_in(node.body)), at_import)
        elif isinstance(node, COMPREHENSIONS):
            first = node.generators[0].iter
            visit(first, names, class_names, at_import)
            for part in ast.iter_child_nodes(node):
                parts = [part] if not isinstance(part, ast.comprehension) else [
                    each for each in [part.target, part.iter] + part.ifs if each is not first]
                for each in parts:
                    visit(each, names | targets_of(node), set(), at_import)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load) and node.id not in names | class_names:
                found.append(Use(node.id, node.lineno, at_import))
        else:
            for part in ast.iter_child_nodes(node):
                visit(part, names, class_names, at_import)

    for statement in tree.body:
        visit(statement, set(), set(), True)
    return found


####################################################################################################
# Checkers: each returns the offences in a source text, as lines for people
####################################################################################################

def section_starts(source):
    """[(line of the banner, name)] in their order."""
    return [(source.count("\n", 0, match.start()) + 1, match.group(2))
            for match in BANNER.finditer(source)]


def section_of(line, starts):
    """The index of the section that a line is in; -1 above the first banner."""
    return sum(start <= line for start, _ in starts) - 1


def section_name(line, starts):
    index = section_of(line, starts)
    return starts[index][1] if index >= 0 else ""


def banner_problems(source):
    names = tuple(name for _, name in section_starts(source))
    rows = len(re.findall(r"^#{20,}$", source, re.MULTILINE))
    problems = [] if names == SECTIONS else ["sections: " + ", ".join(names)]
    if rows != 2 * len(names):
        problems.append("%d rows of # for %d banners" % (rows, len(names)))
    return problems


def uses_of_lower_sections(source):
    tree = ast.parse(source)
    starts = section_starts(source)
    defined = bound_in(tree.body)
    return ["line %d: %s uses %s of %s" % (use.line, section_name(use.line, starts), use.name,
                                           section_name(defined[use.name], starts))
            for use in global_uses(tree)
            if use.name in defined
            and section_of(defined[use.name], starts) > section_of(use.line, starts)]


def uses_before_definition(source):
    tree = ast.parse(source)
    defined = bound_in(tree.body)
    return ["line %d: %s" % (use.line, use.name) for use in global_uses(tree)
            if use.at_import and defined.get(use.name, 0) > use.line]


def lines_of(node):
    """The number of lines, without decorators. Needs Python 3.8."""
    return node.end_lineno - node.lineno + 1


def too_long(source, kinds, limit):
    return ["%s: %d lines" % (node.name, lines_of(node)) for node in ast.walk(ast.parse(source))
            if isinstance(node, kinds) and lines_of(node) > limit]


def exits_and_prints(source):
    """sys.exit, print() and argparse outside of the sections that may use them."""
    starts = section_starts(source)
    return ["line %d: %s" % (node.lineno, what) for node, what in edge_calls(ast.parse(source))
            if section_name(node.lineno, starts) not in MAY_EXIT]


def edge_calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("print", "exit", "quit", "argparse"):
            yield node, node.id
        elif isinstance(node, ast.Attribute) and node.attr in ("exit", "_exit") and getattr(
                node.value, "id", "") in ("sys", "os"):
            yield node, "%s.%s" % (node.value.id, node.attr)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and any(
                name.split(".")[0] == "argparse" for name in imported_modules(node)):
            yield node, "argparse"


def nodes_of_type(source, type_name):
    return ["line %d" % node.lineno for node in ast.walk(ast.parse(source))
            if type(node).__name__ == type_name]


def imported_modules(node):
    if isinstance(node, ast.ImportFrom):
        return [node.module or "."]
    return [each.name for each in node.names]


def imports_at_once(source):
    """The modules that importing this source imports, whether it is in an if or a try."""
    found = set()
    waiting = list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(imported_modules(node))
        elif not isinstance(node, FUNCTIONS):
            waiting += ast.iter_child_nodes(node)
    return found


def documented_share(source):
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTIONS)]
    return sum(ast.get_docstring(node) is not None for node in functions) / len(functions)


def reused_names(source):
    """Parameters and locals that are called like a function of the module."""
    tree = ast.parse(source)
    names = {node.name for node in tree.body if isinstance(node, FUNCTIONS)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS + (ast.Lambda,)):
            used, where = locals_of(node), getattr(node, "name", "lambda")
        elif isinstance(node, COMPREHENSIONS):
            used, where = targets_of(node), "comprehension"
        else:
            continue
        found += ["line %d: %s in %s" % (node.lineno, name, where) for name in used & names]
    return sorted(found)


####################################################################################################
# The tests
####################################################################################################

def sample(**sections):
    """A module with these sections, given as the text of each."""
    row = "#" * 60
    return "\n".join("%s\n# %s\n%s\n%s\n" % (row, name, row, text)
                     for name, text in sections.items())


class ModuleCase(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        with open(SCRIPT, encoding="utf-8") as file:
            cls.source = file.read()


@costly
class Sections(ModuleCase):
    def test_banners(self):
        self.assertEqual(banner_problems(self.source), [])

    def test_wrong_banners_are_noticed(self):
        good = sample(**dict.fromkeys(SECTIONS, "x = 1"))
        self.assertEqual(banner_problems(good), [])
        for bad in (good.replace("# Files", "# Disk"), good.replace("# Files", "#  Files"),
                    good + "#" * 60 + "\n", good + sample(More="x = 1"), ""):
            self.assertNotEqual(banner_problems(bad), [])

    def test_docstring_lists_the_sections(self):
        listed = re.findall(r"^    ([A-Z]\w+) +\S", ast.get_docstring(ast.parse(self.source)),
                            re.MULTILINE)
        self.assertEqual(tuple(listed), SECTIONS)

    def test_a_section_uses_only_those_above(self):
        self.assertEqual(uses_of_lower_sections(self.source), [])

    def test_uses_of_lower_sections_are_noticed(self):
        for text in ("def f():\n    return low", "def f(x=low):\n    pass",
                     "@low\ndef f():\n    pass", "def f() -> low:\n    pass",
                     "def f(x: low):\n    pass", "class C(low):\n    x = 1",
                     "class C:\n    low = low.x\n    def m(self):\n        return low",
                     "x = [low for y in ()]", "x = [low for low in low]", "x = lambda: low",
                     "def f():\n    global low\n    low += low",
                     "def f():\n    def low():\n        pass\n\ndef g():\n    low()"):
            with self.subTest(text=text):
                self.assertEqual(len(uses_of_lower_sections(sample(Text=text, Files="low = 1"))), 1)

    def test_local_names_and_those_above_do_not_count(self):
        for text in ("def f(low):\n    return low", "def f():\n    low = 1\n    return low",
                     "def f():\n    import low\n    return low.x",
                     "def f():\n    for low in ():\n        yield lambda: low",
                     "def f():\n    with x as low:\n        return [low for _ in low]",
                     "def f(*low):\n    def g():\n        return low\n    return g",
                     "def f():\n    try:\n        g()\n    except E as low:\n        raise low",
                     "x = [low for low in ()]", "x = lambda low: low", "x = high.low"):
            with self.subTest(text=text):
                source = sample(Errors="high = 1", Text=text, Files="low = 1")
                self.assertEqual(uses_of_lower_sections(source), [])

    def test_nothing_is_used_before_it_is_defined(self):
        self.assertEqual(uses_before_definition(self.source), [])

    def test_uses_before_a_definition_are_noticed(self):
        for text in ("x = low", "@low\ndef f():\n    pass", "def f(x=low):\n    pass",
                     "class C:\n    x = low", "x = [low for y in ()]", "if True:\n    x = low"):
            with self.subTest(text=text):
                self.assertEqual(len(uses_before_definition(text + "\nlow = 1")), 1)
        for text in ("def f():\n    return low", "x = lambda: low", "low = 1\nx = low",
                     "class C:\n    def m(self):\n        return low"):
            self.assertEqual(uses_before_definition(text + "\nlow = 1"), [])


@unittest.skipIf(sys.version_info < (3, 8), "this Python does not know where a node ends")
class Sizes(ModuleCase):
    def test_module(self):
        self.assertLess(self.source.count("\n"), MAX_MODULE)

    def test_functions(self):
        self.assertEqual(too_long(self.source, FUNCTIONS, MAX_FUNCTION), [])

    def test_classes(self):
        self.assertEqual(too_long(self.source, (ast.ClassDef,), MAX_CLASS), [])

    def test_long_ones_are_noticed(self):
        body = "    x = 1\n" * 3
        text = "@decorated(\n)\ndef f():\n" + body + "class C:\n" + body
        self.assertEqual(too_long(text, FUNCTIONS, 4), [])
        self.assertEqual(too_long(text, FUNCTIONS, 3), ["f: 4 lines"])
        self.assertEqual(too_long(text, (ast.ClassDef,), 3), ["C: 4 lines"])


@costly
class Style(ModuleCase):
    def test_only_the_edges_print_and_exit(self):
        self.assertEqual(exits_and_prints(self.source), [])

    def test_prints_and_exits_are_noticed(self):
        for text in ("print('x')", "def f():\n    sys.exit(1)", "import argparse",
                     "from argparse import ArgumentParser", "x = argparse", "exit()",
                     "def f():\n    os._exit(1)"):
            with self.subTest(text=text):
                self.assertEqual(len(exits_and_prints(sample(Text=text, Entry=text))), 1)
        self.assertEqual(exits_and_prints(sample(Text="console.print('x')\nx = 'argparse'")), [])

    def test_no_assert_and_no_walrus(self):
        for type_name in ("Assert", "NamedExpr"):
            self.assertEqual(nodes_of_type(self.source, type_name), [])

    def test_assert_and_walrus_are_noticed(self):
        self.assertEqual(nodes_of_type("x = 1\nassert x", "Assert"), ["line 2"])
        if sys.version_info >= (3, 8):
            self.assertEqual(nodes_of_type("if (x := 1):\n    pass", "NamedExpr"), ["line 1"])

    def test_imports(self):
        self.assertEqual(imports_at_once(self.source), IMPORTED_AT_ONCE)

    def test_imports_are_noticed_wherever_they_are(self):
        text = "import os.path\ntry:\n    import a\nexcept ImportError:\n    from b import c\n" \
               "class C:\n    import d\ndef f():\n    import e\n"
        self.assertEqual(imports_at_once(text), {"os.path", "a", "b", "d"})

    def test_docstrings(self):
        self.assertGreaterEqual(documented_share(self.source), MIN_DOCUMENTED)

    def test_missing_docstrings_are_noticed(self):
        text = "def f():\n    '''x'''\nclass C:\n    '''x'''\n    def m(self):\n        pass\n"
        self.assertEqual(documented_share(text), 0.5)

    def test_one_meaning_for_a_name(self):
        self.assertEqual(reused_names(self.source), [])

    def test_second_meanings_are_noticed(self):
        for text in ("def g(f):\n    pass", "def g():\n    f = 1", "def g(*, f=1):\n    pass",
                     "def g():\n    import f", "def g():\n    def f():\n        pass",
                     "def g():\n    for f in ():\n        pass", "x = [f for f in ()]",
                     "x = lambda f: 1", "class C:\n    def m(self, f):\n        pass"):
            with self.subTest(text=text):
                self.assertEqual(len(reused_names("def f():\n    pass\n" + text)), 1)
        for text in ("def g():\n    return f()", "class C:\n    def f(self):\n        pass",
                     "x = y.f", "g(f=1)"):
            self.assertEqual(reused_names("def f():\n    pass\n" + text), [])


class StartUp(ServerCase):
    """What Python has to import for a command, apart from what it imports for itself."""

    shared = True

    def modules(self, *args, code=0):
        """The modules that a command line imports, which ends with that exit code."""
        result = run_command([sys.executable, "-I", "-S", "-B", "-c", LIST_MODULES, ROOT]
                             + list(args), self.environment)
        self.assertEqual(result.code, code, result)
        found = set(result.out.rpartition("\nmodules: ")[2].split())
        self.assertIn("twosignal", found)
        return found

    def test_without_a_request(self):
        for args in (["--version"], ["--help"], ["version"], ["help"], ["traces", "--help"],
                     ["completion", "bash"], ["__complete", "--", "traces", ""]):
            with self.subTest(args=args):
                self.assertEqual(self.modules(*args) & EXPENSIVE, set())

    def test_errors_before_a_request(self):
        for args, code in ((["whoami"], 4), (["logout"], 0), (["orgs", "list", "-o"], 2),
                           (["projects", "create"], 2), (["traces"], 2), ([], 2)):
            with self.subTest(args=args):
                self.assertEqual(self.modules(*args, code=code) & EXPENSIVE, set())

    def test_a_listing(self):
        self.log_in()
        found = self.modules("traces", "list", "--project", self.server.project, "--json")
        self.assertIn("http.client", found)
        # The standard library needs more for HTTP, such as ssl for http.client.
        self.assertEqual(found & {"argparse", "csv", "difflib", "getpass", "inspect", "subprocess",
                                  "zipfile"}, set())

    def test_an_import_is_noticed(self):
        self.assertIn("difflib", self.modules("traces", "lst", code=2))


if __name__ == "__main__":
    unittest.main()
