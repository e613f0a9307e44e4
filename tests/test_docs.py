"""What the documents name is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = sorted((TESTS.parent / "docs").glob("*.md"))
NAMED = re.compile(r"`(?=[\w/]*test_|::)(?:tests/)?((?:\w+/)*test_\w+\.py)?(?:::(\w+))?`")


def named(text: str) -> Iterator[tuple[str, str]]:
    """Yield the tests that a text names, as file and function: `file.py`, `file.py::test_name`, and `::test_name` of
    the file that was named last.
    """
    file = ""
    for match in NAMED.finditer(text):
        file = match[1] or file
        yield file, match[2] or ""


def functions_of(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, functions)}


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    for file, name in named(document.read_text(encoding="utf-8")):
        assert (TESTS / file).is_file(), f"{file}::{name}"
        assert not name or name in functions_of(TESTS / file), f"{file}::{name}"


def test_the_guarantees_name_what_holds_them() -> None:
    found = list(named((TESTS.parent / "docs" / "guarantees.md").read_text(encoding="utf-8")))
    assert sum(bool(name) for _, name in found) > 20
