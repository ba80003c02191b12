"""Every command of ours explains itself."""

import pytest
from django.core.management import get_commands, load_command_class
from django.utils import translation

OURS = {"accounts", "serials", "fleet", "containers", "acl", "derpmgmt"}
NAMES = sorted(name for name, app in get_commands().items() if app in OURS)


def test_the_operators_commands_are_there() -> None:
    assert set(NAMES) >= {
        "up",
        "demo",
        "user_create",
        "server_add",
        "server_list",
        "serials_create",
        "serial_redeem",
        "relay_list",
        "relay_probe",
        "acl_export",
        "device_list",
        "device_add",
        "device_revoke",
        "image_build",
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_help_is_printed_in_the_language_when_asked_for(name: str, language: str) -> None:
    with translation.override(language):
        command = load_command_class(get_commands()[name], name)
        text = command.create_parser("manage.py", name).format_help()
    assert f"manage.py {name}" in text
    assert len(str(command.help)) > 10
