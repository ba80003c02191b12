"""What the log leaves out."""

import logging


class PlainRefusals(logging.Filter):
    """A page that is refused or not there (status below 500) is one line: how the code came to say so helps nobody."""

    def filter(self, record: logging.LogRecord) -> bool:
        if 400 <= getattr(record, "status_code", 500) < 500:
            record.exc_info = record.exc_text = None
        return True
