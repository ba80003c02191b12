"""Every address of the panel."""

from django.contrib import admin
from django.urls import include, path

from accounts.brand.views import brand_picture, brand_style, paper
from accounts.views import app_activate
from derpmgmt import api, appearance, mailbox, metrics, pages
from derpmgmt.history import views as history

admin.autodiscover()

urlpatterns = [
    path("", pages.front, name="front"),
    path("robots.txt", pages.robots, name="robots"),
    path("theme/", appearance.theme_set, name="theme-set"),
    path("home/", pages.home, name="home"),
    path("home/relays/", pages.home_relays, name="home-relays"),
    path("home/map/", pages.home_map, name="home-map"),
    path("home/devices/", pages.home_devices, name="home-devices"),
    path("home/first-run/", pages.home_first_run, name="home-first-run"),
    path("history/", history.history, name="history"),
    path("history/<slug:kind>.<slug:file_format>", history.history_export, name="history-export"),
    path("account/", include("accounts.urls")),
    path("accounts/2fa/totp/activate/", app_activate, name="mfa_activate_totp"),  # before allauth's own
    path("accounts/", include("allauth.urls")),
    path("", include("serials.urls")),
    path("", include("acl.urls")),
    path("", include("containers.urls")),
    path("api/docs", api.docs, name="api-docs"),
    path("api/openapi.json", api.openapi, name="api-openapi"),
    path("terms/", paper, {"name": "terms"}, name="terms"),
    path("privacy/", paper, {"name": "privacy"}, name="privacy"),
    path("brand/<slug:digest>.css", brand_style, name="brand-style"),
    path("brand/<slug:digest>.<slug:kind>", brand_picture, name="brand-picture"),
    path("metrics", metrics.metrics, name="metrics"),
    path("mailbox/", mailbox.mailbox, name="mailbox"),
    path("admin/", admin.site.urls),
]

handler429 = pages.too_many_requests  # allauth's own limits look it up here
handler500 = pages.server_error
