"""Addresses of the customer's map and of their devices."""

from django.urls import path

from acl.devices import place_views, rule_views
from acl.devices import views as device_views
from acl.maps import views as map_views

app_name = "acl"
urlpatterns = [
    path("map/how-to/", map_views.map_howto, name="map-howto"),
    path("map/netcheck/", map_views.netcheck, name="netcheck"),
    path("map/history/", map_views.map_history, name="map-history"),
    path("map/regions/<int:pk>/", map_views.region_change, name="region-change"),
    path("map/renew/", map_views.map_renew, name="map-renew"),
    path("map/live/", map_views.live_show, name="live-show"),
    path("map/live/create/", map_views.live_create, name="live-create"),
    path("map/live/revoke/", map_views.live_revoke, name="live-revoke"),
    path("map/<slug:file_format>/copied/", map_views.map_copied, name="map-copied"),
    path("map/<slug:file_format>/", map_views.map_download, name="map-download"),
    path("devices/", device_views.device_list, name="device-list"),
    path("devices/now/", device_views.device_state, name="device-state"),
    path("devices/lists/", device_views.device_lists, name="device-lists"),
    path("devices/add/", device_views.device_add, name="device-add"),
    path("devices/place/", place_views.place_give, name="place-give"),
    path("devices/<int:pk>/approve/", device_views.device_approve, name="device-approve"),
    path("devices/<int:pk>/ignore/", device_views.device_ignore, name="device-ignore"),
    path("devices/<int:pk>/revoke/", device_views.device_revoke, name="device-revoke"),
    path("devices/<int:pk>/rename/", device_views.device_rename, name="device-rename"),
    path("devices/rules/", rule_views.rule_list, name="rule-list"),
    path("devices/window/open/", rule_views.window_open, name="window-open"),
    path("devices/window/close/", rule_views.window_close, name="window-close"),
    path("devices/checking/stop/", rule_views.checking_stop, name="checking-stop"),
    path("devices/checking/start/", rule_views.checking_start, name="checking-start"),
    path("devices/verify/", rule_views.verify_show, name="verify-show"),
    path("devices/verify/set/", rule_views.verify_set, name="verify-set"),
    path("devices/verify/remove/", rule_views.verify_remove, name="verify-remove"),
    path("devices/admissions/", device_views.admission_list, name="admission-list"),
]
