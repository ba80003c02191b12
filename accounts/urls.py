"""Addresses of the account's own pages."""

from django.urls import path

from accounts import token_views, views

app_name = "accounts"
urlpatterns = [
    path("", views.account_show, name="account-show"),
    path("close/", views.account_close, name="account-close"),
    path("closed/", views.account_closed, name="account-closed"),
    path("channels/", views.channel_list, name="channel-list"),
    path("channels/<int:pk>/test/", views.channel_test, name="channel-test"),
    path("channels/<int:pk>/confirm/", views.channel_confirm, name="channel-confirm"),
    path("channels/<int:pk>/remove/", views.channel_remove, name="channel-remove"),
    path("tokens/", token_views.token_list, name="token-list"),
    path("tokens/<int:pk>/revoke/", token_views.token_revoke, name="token-revoke"),
    path("sessions/end/", views.sessions_end, name="sessions-end"),
    path("language/", views.language_set, name="language-set"),
]
