"""Reads pages and Markdown as their consumers do: a browser, a strict HTML parser, and GFM.

    python3 tests/support/pages.py browser CHROMIUM DIR     loads the pages in a headless Chromium
    python3 tests/support/pages.py parsers DIR              with html5lib and markdown-it-py

DIR is what `tests/test_documents.py --pages DIR` wrote. This file needs nothing of the project, so
that it runs in the environment in which the parsers are installed.
"""
import glob
import html.parser
import json
import os
import re
import subprocess
import sys
import tempfile

WIDTHS = (390, 1280)
DARK, LIGHT = 0, 1          # what Chromium calls them
TAGS = set("html head meta title style script body h1 h2 p b pre div table thead tbody tr th td "
           "details summary svg rect button".split())
# Sorts by a column, then puts into the title what cannot be seen in the document.
PROBE = """<script>
for (let clicks = %d; clicks > 0; clicks--) document.querySelectorAll("th button")[%d].click();
const root = document.documentElement, style = getComputedStyle(document.body);
document.title = JSON.stringify([root.scrollWidth, innerWidth,
  getComputedStyle(root).getPropertyValue("--red").trim(), style.marginTop]);
</script>"""


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class Elements(html.parser.HTMLParser):
    """The elements of a document, as (tag, attributes), and the cells of the rows of its body."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.rows, self.title, self.inside = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while tag in self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "title" in self.inside:
            self.title += data
        if "td" in self.inside and self.rows:
            self.rows[-1][-1] += data


class Browser:
    def __init__(self, program, folder):
        self.words = [program, "--headless=new", "--no-sandbox", "--disable-gpu",
                      "--user-data-dir=" + folder, "--enable-logging=stderr", "--dump-dom",
                      "--virtual-time-budget=5000"]

    def load(self, path, width=1280, scheme=LIGHT):
        """(Elements of the document as it is after its script has run, what the console says)."""
        words = self.words + ["--window-size=%d,844" % width,
                              "--blink-settings=preferredColorScheme=%d" % scheme,
                              "file://" + os.path.abspath(path)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                              check=True)
        said = [line for line in done.stderr.decode("utf-8", "replace").splitlines()
                if "CONSOLE" in line]
        return Elements(done.stdout.decode("utf-8")), said


def problems_of_page(document, said):
    """What a loaded page has that it should not have, as a list of texts."""
    found = list(said)
    tags = {tag for tag, _ in document.elements}
    found += ["has %s" % tag for tag in tags - TAGS]
    found += ["%s %s" % (tag, attributes) for tag, attributes in document.elements
              if any(name.startswith("on") or name in ("style", "href", "src")
                     for name in attributes)]
    if not document.title.startswith("twosignal ") and not document.title.endswith(": ERROR"):
        found.append("the title is " + document.title)
    if ("table", {"class": "sortable"}) in document.elements and "button" not in tags:
        found.append("its script did not run")
    return found


def probed(browser, path, folder, clicks=0, column=0, **options):
    """(Elements, what PROBE found) of a copy of a page that allows another script."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", read(path))
    copy = os.path.join(folder, "copy.html")
    with open(copy, "w", encoding="utf-8") as file:
        file.write(text.replace("</body>", PROBE % (clicks, column) + "</body>"))
    document, _ = browser.load(copy, **options)
    return document, json.loads(document.title)


def problems_of_sorting(browser, path, folder):
    """A click on Cost sorts traces by number, up, down, then as they were; unknown ones last."""
    found = []
    heading = re.search(r"<thead><tr>(.*?)</tr>", read(path)).group(1)
    column = re.findall(r"<th>(.*?)</th>", heading).index("Cost")
    orders = []
    for clicks in range(4):
        document, _ = probed(browser, path, folder, clicks, column)
        costs = [row[column] for row in document.rows if row]
        order = [attributes["aria-sort"] for tag, attributes in document.elements
                 if tag == "th" and "aria-sort" in attributes]
        orders.append((costs, order[column] if order else None))
    shown = orders[0][0]
    known = sorted([cost for cost in shown if cost != "-"], key=lambda cost: float(cost.strip("$")))
    unknown = ["-"] * shown.count("-")
    for (costs, order), expected in zip(orders, (
            (shown, None), (known + unknown, "ascending"),
            (known[::-1] + unknown, "descending"), (shown, "none"))):
        if (costs, order) != expected:
            found.append("sorted %s: %s" % (order, costs))
    return found


def browser_problems(program, folder):
    """{file: problems} of the pages in a browser."""
    found = {}
    with tempfile.TemporaryDirectory() as work:
        browser = Browser(program, os.path.join(work, "profile"))
        for path in sorted(glob.glob(os.path.join(folder, "[!h]*.html"))
                           + glob.glob(os.path.join(folder, "hostile-?.html"))):
            name = os.path.basename(path)
            found[name] = problems_of_page(*browser.load(path))
            if name.startswith("hostile-"):
                continue
            for width, scheme, red in ((390, LIGHT, "#c6222b"), (1280, DARK, "#ff7b72")):
                _, (room, window, colour, margin) = probed(browser, path, work, width=width,
                                                           scheme=scheme)
                if room > window or colour != red or margin != "16px":
                    found[name].append("%s in %s, %s, %s" % (room, window, colour, margin))
        path = os.path.join(folder, "list.html")
        found["sorting"] = problems_of_sorting(browser, path, work)
    return found


def parser_problems(folder):
    """{file: problems} of the pages as html5lib, and of the Markdown as markdown-it reads them."""
    import html5lib
    from markdown_it import MarkdownIt
    names = json.loads(read(os.path.join(folder, "names.json")))
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.html"))):
        with open(path, "rb") as file:
            try:
                html5lib.HTMLParser(strict=True).parse(file)
                found[os.path.basename(path)] = []
            except html5lib.html5parser.ParseError as error:
                found[os.path.basename(path)] = [repr(error)]
    markdown = MarkdownIt("gfm-like")
    for path in sorted(glob.glob(os.path.join(folder, "*.md"))):
        tokens = markdown.parse(read(path))
        inner = [child for token in tokens for child in token.children or ()]
        kinds = {token.type for token in tokens + inner}
        found[os.path.basename(path)] = sorted(kinds - {
            "paragraph_open", "paragraph_close", "heading_open", "heading_close", "inline", "text",
            "table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close",
            "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close", "code_inline",
            "code_block", "strong_open", "strong_close", "text_special"})
    shown = {child.content for token in markdown.parse(read(os.path.join(folder, "list.md")))
             for child in token.children or ()}
    missing = [name for name in names if name.strip(" ") == name != ""
               and not re.search(r"[`|]|::|#", name) and name not in shown]
    found["names in list.md"] = list(map(ascii, missing))
    return found


def main(kind, *arguments):
    found = {"browser": browser_problems, "parsers": parser_problems}[kind](*arguments)
    for name, problems in found.items():
        if problems or not name.startswith("hostile-"):
            print("%s: %s" % (name, ascii("; ".join(problems)) if problems else "ok"))
    return 1 if any(found.values()) or len(found) < 10 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
