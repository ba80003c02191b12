"""Addresses of serial numbers."""

from django.urls import path

from serials import views

app_name = "serials"
urlpatterns = [path("redeem/", views.serial_redeem, name="serial-redeem")]
