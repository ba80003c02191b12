"""What is written down of what the panel and its libraries say: lines for people on standard error, made by structlog."""

import sys
from typing import Any

import structlog


def describe(*, level: str) -> dict[str, Any]:
    """Django's `LOGGING`: everything from `level` on, of libraries only what matters to an operator."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {
                "()": structlog.stdlib.ProcessorFormatter,
                # structlog's own choice prints every local variable, keys and passwords too, where the package rich is installed.
                "processor": structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
                ),
                "foreign_pre_chain": [
                    structlog.contextvars.merge_contextvars,
                    structlog.processors.TimeStamper(fmt="iso"),
                    structlog.stdlib.add_log_level,
                ],
            }
        },
        "filters": {"refusals": {"()": "derpmgmt.lib.log_filters.PlainRefusals"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "plain", "filters": ["refusals"]},
            "nowhere": {"class": "logging.NullHandler"},
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django.request": {"filters": ["refusals"]},
            "paramiko": {"level": "CRITICAL"},
            "asyncssh": {"level": "WARNING"},
            "rq": {"level": "WARNING"},
            "rq.worker": {"level": "WARNING", "handlers": [], "propagate": True},
            "rq.cron": {"level": "WARNING"},
            "django_structlog": {"level": "WARNING"},
            # They would log the keys in the addresses of push services; what one of those said stands with the notice.
            "apprise": {"level": "WARNING", "handlers": ["nowhere"], "propagate": False},
            "urllib3": {"level": "WARNING"},
            "waitress": {"level": "WARNING"},
        },
    }


def configure() -> None:
    """Have structlog's own loggers go the same way."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,  # first: most of what libraries say is not written down
            structlog.contextvars.merge_contextvars,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
