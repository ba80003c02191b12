"""Addresses of the customer's map."""

from django.urls import path

from acl import views

app_name = "acl"
urlpatterns = [
    path("map/how-to/", views.map_howto, name="map-howto"),
    path("map/history/", views.map_history, name="map-history"),
    path("map/regions/<int:pk>/", views.region_change, name="region-change"),
    path("map/renew/", views.map_renew, name="map-renew"),
    path("map/live/", views.live_show, name="live-show"),
    path("map/live/create/", views.live_create, name="live-create"),
    path("map/live/revoke/", views.live_revoke, name="live-revoke"),
    path("map/<slug:file_format>/copied/", views.map_copied, name="map-copied"),
    path("map/<slug:file_format>/", views.map_download, name="map-download"),
]
