#!/usr/bin/env python
"""Django's command line for the panel; `manage.py help` lists the operators' commands."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "derpmgmt.settings")
    if sys.argv[1:2] == ["demo"]:
        os.environ["DERPMGMT_DEMO"] = (
            "yes"  # before the settings are read: a demo has a state folder of its own
        )
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
