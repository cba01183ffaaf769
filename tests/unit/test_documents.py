"""What the documents say of the code is so."""

import ast
import re
from pathlib import Path

import pytest

from pulsepool import DatabaseSettings

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def test_the_settings_page_has_each_setting_with_its_variable_and_default():
    rows = re.findall(r"^\| `(\w+)`[ ¹²]*\| `(\w+)` \|([^|]*)\|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    said = {name: (variable, default.strip()) for name, variable, default in rows}
    fields = DatabaseSettings.model_fields
    address = {"url", "user", "password", "host", "port", "name"}
    assert said == {
        name: (
            "DATABASE_URL" if name == "url" else f"DB_{name.upper()}",
            "" if name in address else "none" if field.default is None else str(field.default),
        )
        for name, field in fields.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_python_block_of_the_readme_can_be_read():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        assert compile(block, "README.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
