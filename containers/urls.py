"""Addresses of the customer's relays."""

from django.urls import path

from containers import views

app_name = "containers"
urlpatterns = [
    path("relays/<int:pk>/probe/", views.relay_probe, name="relay-probe"),
    path("relays/<int:pk>/graph/<slug:name>/", views.relay_graph, name="relay-graph"),
    path("traffic/", views.traffic_show, name="traffic"),
    path("traffic/graph/", views.traffic_graph, name="traffic-graph"),
    path("traffic.csv", views.traffic_csv, name="traffic-csv"),
]
