"""Addresses of the customer's relays."""

from django.urls import path

from containers import views

app_name = "containers"
urlpatterns = [path("relays/<int:pk>/probe/", views.relay_probe, name="relay-probe")]
