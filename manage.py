#!/usr/bin/env python
"""Django's command line for the panel; `manage.py help` lists the operators' commands."""

import gc
import json
import os
import select
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "derpmgmt.settings")
    if sys.argv[1:2] == ["demo"]:
        os.environ["DERPMGMT_DEMO"] = (
            "yes"  # before the settings are read: a demo has a state folder of its own
        )
    # Libraries of our libraries that none of them needs for what they do here, and that weigh megabytes in every process: paramiko's for
    # one keyword of ssh_config, structlog's for coloured tracebacks.
    for name in ("invoke", "rich"):
        sys.modules.setdefault(name, None)  # type: ignore[call-overload]
    # What is imported stays: to look through it for garbage, again and again and once more at the end, takes a quarter of a command's
    # time. In a panel, whose processes share it, the garbage would stay too.
    if sys.argv[1:2] not in (["up"], ["demo"]):
        gc.disable()
    import django
    from django.core.exceptions import ImproperlyConfigured
    from django.utils import translation

    from derpmgmt.lib.commands import is_json_asked, run_command_line

    try:
        django.setup()
        from derpmgmt.lib.language import terminal_language

        translation.activate(terminal_language())
        from derpmgmt.own_keys import check_keys_for

        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        check_keys_for(sys.argv)
        run_command_line(sys.argv)
        sys.stdout.flush()
    except ImproperlyConfigured as error:
        if is_json_asked(sys.argv):
            sys.exit(
                json.dumps(
                    {"code": "configuration", "message": str(error), "details": {}}, ensure_ascii=False
                )
            )
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not _is_reader_gone():
            raise
        sys.exit(141)  # as programs that the signal ends
    finally:
        _forget_unread()


def _is_reader_gone() -> bool:
    """Whether whoever read our output has closed it, as `head` does."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _number, events in poll.poll(0))


def _forget_unread() -> None:
    """What is still to be written for a reader who is gone goes nowhere, or Python complains about it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    main()
