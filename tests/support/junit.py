"""What the consumers of JUnit reports require, and what they read; for the tests of reports.

    python3 tests/support/junit.py DIR      reads the reports in DIR with junitparser

DIR is what `tests/test_traces_reports.py --reports DIR` wrote. This file needs nothing of the
project, so that it runs in the environment in which junitparser is installed.
"""
import json
import os
import re
import sys
import xml.etree.ElementTree

# The schema of Jenkins' xUnit plugin, junit-10.xsd: the attributes of each element, True if they
# are required, and its children; of those that the reports have.
ELEMENTS = {
    "testsuites": (dict.fromkeys(("name", "time", "tests", "failures", "errors"), False),
                   ("testsuite",)),
    "testsuite": (dict(dict.fromkeys(("name", "tests", "failures", "errors"), True), time=False,
                       skipped=False), ("testcase",)),
    "testcase": ({"name": True, "time": False, "classname": False}, ("failure", "error")),
    "failure": ({"type": False, "message": False}, ()),
    "error": ({"type": False, "message": False}, ())}
SUREFIRE_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")
# Surefire's own schema requires these as well, and other consumers expect them.
EXPECTED = {"testsuite": ("time", "skipped"), "testcase": ("time", "classname"),
            "failure": ("type", "message"), "error": ("type", "message")}


def problems(root):
    """What in a report is not as the schema requires, as a list of texts."""
    found = [] if root.tag == "testsuites" else [f"the root is {root.tag}"]
    for element in root.iter():
        attributes, children = ELEMENTS.get(element.tag, ({}, ()))
        required = [name for name, is_required in attributes.items() if is_required]
        required += EXPECTED.get(element.tag, ())
        found += [f"{element.tag} lacks {name}" for name in required if name not in element.attrib]
        found += [f"{element.tag} has {name}" for name in element.attrib if name not in attributes]
        found += [f"{element.tag} contains {child.tag}" for child in element
                  if child.tag not in children]
        if not SUREFIRE_TIME.fullmatch(element.get("time", "")):
            found.append(f"time of {element.tag}: {element.get('time')}")
        texts = [element.text] + [child.tail for child in element]
        if children and "".join(text or "" for text in texts).strip():
            found.append(f"{element.tag} has text")
    for suite in root.findall("testsuite"):
        cases = suite.findall("testcase")
        counts = {"tests": len(cases), "skipped": 0, "failures": len(suite.findall("*/failure")),
                  "errors": len(suite.findall("*/error"))}
        found += [f"{name} is {suite.get(name)}, not {count}" for name, count in counts.items()
                  if suite.get(name) != str(count)]
        if not cases:
            found.append("no test cases")       # which steps that publish reports refuse
    return found


def as_hash(element):
    """An element as ActiveSupport's Hash.from_xml gives it to GitLab.

    An element with text is that text: its attributes and children are lost.
    """
    value = dict(element.attrib)
    for child in element:
        value.setdefault(child.tag.replace("-", "_"), []).append(as_hash(child))
    text = "".join([element.text or ""] + [child.tail or "" for child in element])
    return text if text.strip() else value or None


def read_by_gitlab(root):
    """{(suite, class, name): (status, system output)}; GitLab shows one case for each such key."""
    cases = {}
    for suite in as_hash(root)["testsuite"]:
        for case in suite["testcase"]:
            status = next((name for name in ("failure", "error", "skipped") if name in case), None)
            output = case[status][0] if status else None
            cases[suite["name"], case["classname"], case["name"]] = status, output
    return cases


def read_by_dorny(root):
    """[(group, name, seconds, "failed" or "success", details)], as dorny/test-reporter reads it."""
    cases = []
    for suite in root.findall("testsuite"):
        float(suite.get("time"))
        for case in suite.findall("testcase"):
            group = "" if case.get("classname") == suite.get("name") else case.get("classname")
            wrong = case.find("failure") if case.find("error") is None else case.find("error")
            cases.append((group, case.get("name").strip(), float(case.get("time")),
                          "success" if wrong is None else "failed",
                          None if wrong is None else wrong.text))
    float(root.get("time"))
    return cases


def read_by_junitparser(path):
    """({tests, failures, errors}, [(name, type or None, message, text, whether it is an error)])"""
    from junitparser import Error, JUnitXml
    report = JUnitXml.fromfile(path)
    cases = []
    for suite in report:
        for case in suite:
            wrong = case.result[0] if case.result else None
            cases.append((case.name, wrong and wrong.type, wrong and wrong.message,
                          wrong and wrong.text, isinstance(wrong, Error)))
    return {name: getattr(report, name) for name in ("tests", "failures", "errors")}, cases


def differences(path, expected):
    """How a report, as junitparser reads it, differs from what it should say."""
    found = problems(xml.etree.ElementTree.parse(path).getroot())
    counts, cases = read_by_junitparser(path)
    wrong = sum(kind is not None for _, kind, *_ in expected)
    errors = sum(is_error for *_, is_error in expected)
    if counts != {"tests": len(expected), "failures": wrong - errors, "errors": errors}:
        found.append(f"counts {counts}")
    for (name, kind, message, text, is_error), (start, code, reason, should_be_error) in zip(
            sorted(cases), sorted(expected)):
        if not name.startswith(start) or kind != code:
            found.append(f"case {name} {kind}, not {start} {code}")
        elif code and (text.split("\n")[0] != message or reason not in text or
                       is_error != should_be_error):
            found.append(f"case {name}: {message}: {text}")
    return found


def main(folder):
    with open(os.path.join(folder, "expected.json"), encoding="utf-8") as file:
        expected = json.load(file)
    failed = 0
    for kind, cases in sorted(expected.items()):
        found = differences(os.path.join(folder, kind + ".xml"), cases)
        print(f"{kind}: {'; '.join(found) or 'ok'}")
        failed += bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
