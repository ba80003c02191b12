"""The language of what is said in a terminal, and of mail that a command sends itself."""

from django.core.exceptions import ImproperlyConfigured

from derpmgmt.lib import early, env
from derpmgmt.lib.early import gettext as _


def terminal_language() -> str:
    """`zh-hans` or `en`: what DERPMGMT_LANGUAGE says, else the locale, else the panel's own language.

    Raises `ImproperlyConfigured` when DERPMGMT_LANGUAGE names neither Chinese nor English.
    """
    if chosen := env.read("LANGUAGE"):
        language = early.match_language(chosen)
        if not language:
            text = _("DERPMGMT_LANGUAGE: zh-hans or en, not “%(value)s”.")
            raise ImproperlyConfigured(text % {"value": chosen})
        return language
    return early.locale_language()
