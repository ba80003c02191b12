"""docs/settings.md lists what the panel reads from its environment."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from derpmgmt.lib.env import BASE_DIR

APPS = ("accounts", "acl", "billing", "containers", "derpmgmt", "distribution", "fleet", "serials")


def names_read(path: Path) -> Iterator[str]:
    """The names given to the functions `read…` of `derpmgmt.lib.env` in one file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        prefix = "" if path.name == "env.py" else r"env\."
        argument = node.args[0]
        if re.fullmatch(prefix + r"read(_bool|_int|_list)?", ast.unparse(node.func)) and isinstance(
            argument, ast.Constant
        ):
            yield f"DERPMGMT_{argument.value}"


def test_every_variable_is_documented_when_it_is_read() -> None:
    page = (BASE_DIR / "docs" / "settings.md").read_text()
    listed = re.findall(r"^\| `(DERPMGMT_[A-Z_]+)`", page, re.MULTILINE)
    read = {name for app in APPS for path in (BASE_DIR / app).rglob("*.py") for name in names_read(path)}
    assert len(listed) == len(set(listed))
    assert set(listed) == read | {"DERPMGMT_VAR_DIR"}
