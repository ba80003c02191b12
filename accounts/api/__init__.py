"""The JSON API of people: coming in, accounts, tokens, notices, the activity log."""

from accounts.api import alerts, entrance, logs, notifications, people, tokens

# By first words.
ROOMS = {
    "user": [entrance.user, people.user, tokens.user],
    "notifications": [notifications.notifications],
    "logs": [logs.logs],
    "monitoring": [alerts.monitoring],
}
