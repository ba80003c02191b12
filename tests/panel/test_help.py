"""Every command of ours explains itself."""

import re

import pytest
from django.core.management import CommandError, get_commands, load_command_class
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
        "device_window",
        "image_build",
        "user_list",
        "serial_list",
        "serial_recall",
        "server_drain",
        "server_show",
        "live_url",
        "activity_log",
        "alert_list",
        "alert_resolve",
        "traffic_show",
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_help_is_printed_in_the_language_when_asked_for(name: str, language: str) -> None:
    with translation.override(language):
        command = load_command_class(get_commands()[name], name)
        text = command.create_parser("manage.py", name).format_help()
    assert f"manage.py {name}" in text
    assert len(str(command.help)) > 10


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"migrate"}))
def test_help_is_about_our_options_alone_in_one_language(name: str) -> None:
    with translation.override("zh-hans"):
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        text = parser.format_help()
        assert not re.search(
            r"--(version|verbosity|settings|pythonpath|traceback|no-color|skip-checks)", text
        )
        assert text.startswith("用法：manage.py")
        assert not any(words in text for words in ("usage", "options", "positional", "show this help"))
        with pytest.raises(
            CommandError, match=r"无法识别的参数：--nonsense|缺少以下参数|参数 .*："
        ) as refused:
            parser.parse_args(["--nonsense"])
        assert refused.value.returncode
    # They are taken as before.
    assert {"--settings", "--traceback", "--verbosity"} <= parser._option_string_actions.keys()
