"""Addresses of the account's own pages."""

from django.urls import path

from accounts import views

app_name = "accounts"
urlpatterns = [
    path("", views.account_show, name="account-show"),
    path("close/", views.account_close, name="account-close"),
    path("closed/", views.account_closed, name="account-closed"),
    path("channels/", views.channel_list, name="channel-list"),
    path("channels/<int:pk>/test/", views.channel_test, name="channel-test"),
    path("channels/<int:pk>/confirm/", views.channel_confirm, name="channel-confirm"),
    path("channels/<int:pk>/remove/", views.channel_remove, name="channel-remove"),
    path("language/", views.language_set, name="language-set"),
]
