"""The shape of a Python module in numbers, for comparison before and after a change."""
import ast
import io
import statistics
import tokenize


def measures(path):
    """Pairs of a title and a value. Needs Python 3.8 for the last line of a function."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    tree, lines = ast.parse(text), len(text.splitlines())
    functions = find(tree, (ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = [node.end_lineno - node.lineno + 1 for node in functions]
    longest = max(functions, key=lambda node: node.end_lineno - node.lineno)
    documented = find(tree, (ast.Module, ast.ClassDef)) + functions
    return [
        ("lines", f"{lines:,}"),
        ("functions", f"{len(functions):,}"),
        ("lines per function, mean", f"{statistics.mean(lengths):.1f}"),
        ("lines per function, median", f"{statistics.median(lengths):g}"),
        ("longest function, lines", f"{max(lengths)} ({longest.name})"),
        ("functions and classes with a docstring", share(
            sum(ast.get_docstring(node) is not None for node in documented), len(documented))),
        ("comment lines, without banners", share(count_comments(text), lines)),
        ("ternaries per 100 lines", f"{100 * len(find(tree, ast.IfExp)) / lines:.1f}"),
        ("f-strings", f"{count_fstrings(tree):,}"),
        ("% formats", f"{sum(map(is_percent_format, find(tree, ast.BinOp))):,}"),
    ]


def find(tree, kinds):
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def share(part, whole):
    return f"{100 * part / whole:.1f} %"


def count_comments(text):
    """The lines that have nothing but a comment; those of a banner have nothing but #."""
    lines = text.splitlines()
    comments = [token for token in tokenize.generate_tokens(io.StringIO(text).readline)
                if token.type == tokenize.COMMENT]
    return sum(lines[token.start[0] - 1].lstrip().startswith("#")
               and token.string.strip("#") != "" for token in comments)


def count_fstrings(tree):
    """The f-strings; the format within a {} is an f-string of its own to the parser."""
    formats = {id(node.format_spec) for node in find(tree, ast.FormattedValue)}
    return sum(id(node) not in formats for node in find(tree, ast.JoinedStr))


def is_percent_format(node):
    return (isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant)
            and isinstance(node.left.value, (str, bytes)))


def table(columns):
    """A line per measure; `columns` are pairs of a heading and a path."""
    values = [measures(path) for _, path in columns]
    rows = [["", *(heading for heading, _ in columns)]]
    rows += [[cells[0][0], *(value for _, value in cells)] for cells in zip(*values)]
    return "\n".join("  ".join([f"{row[0]:<40}"] + [f"{cell:>24}" for cell in row[1:]])
                     for row in rows)
