"""Addresses of serial numbers and rentals."""

from django.urls import path

from serials.numbers import views

app_name = "serials"
urlpatterns = [
    path("redeem/", views.serial_redeem, name="serial-redeem"),
    # How rentals name the page where a customer gets more time.
    path("redeem/", views.serial_redeem, name="rental-renew"),
]
