"""Addresses of the account's own pages."""

from django.urls import path

from accounts import views

app_name = "accounts"
urlpatterns = [
    path("", views.account_show, name="account-show"),
    path("language/", views.language_set, name="language-set"),
]
