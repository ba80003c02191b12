"""Signing in where the server asks questions, wants several things or refuses in its own way."""

import pytest

from fleet import ssh
from fleet.ssh import Connection
from tests.fleet.door import ASK, Door, open_door

PASSWORD = "correct horse battery"
CHANGE = "You are required to change your password immediately (administrator enforced)."
ACCOUNT = "Your account has expired; please contact your system administrator."
DIALOGUE, BOTH = ("keyboard-interactive",), ("publickey", "keyboard-interactive")


def refusal(door: Door, *, key: bool = False, password: str = "") -> ssh.RemoteError:
    with open_door(door), pytest.raises(ssh.RemoteError) as caught:
        Connection.open(door.endpoint(key=key, password=password), 10)
    assert PASSWORD not in repr(caught.value.__dict__)
    assert "%(" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "rounds",
    [
        [ASK],
        [("", []), ASK],
        [("Welcome to a place that asks.", [("(root@host) Password for root: ", False)]), ("", [])],
        [("", [("密码：", False)])],
    ],
)
def test_password_answers_a_dialogue_with_one_question(
    rounds: list[tuple[str, list[tuple[str, bool]]]],
) -> None:
    with open_door(Door(steps=DIALOGUE, rounds=rounds)) as door:
        Connection.open(door.endpoint(password=PASSWORD), 10).close()
    assert door.answers == [[PASSWORD]]


@pytest.mark.parametrize("steps", [BOTH, ("publickey", "password"), ("keyboard-interactive", "publickey")])
def test_key_and_password_are_both_given_when_the_server_wants_both(steps: tuple[str, ...]) -> None:
    with open_door(Door(steps=steps)) as door:
        Connection.open(door.endpoint(key=True, password=PASSWORD), 10).close()


@pytest.mark.parametrize(
    ("door", "given", "code"),
    [
        (Door(steps=DIALOGUE), {"password": "wrong"}, "authentication_failed"),
        (Door(steps=BOTH), {"key": True}, "key_and_password"),
        (Door(steps=BOTH), {"key": True, "password": "wrong"}, "password_refused"),
        (Door(steps=("keyboard-interactive", "publickey"), takes_key=False), {"key": True, "password": PASSWORD}, "key_refused"),
        (Door(steps=("password", "hostbased")), {"password": PASSWORD}, "more_wanted"),
        (Door(steps=DIALOGUE), {"key": True}, "key_not_taken"),
        (Door(steps=("publickey",)), {"password": PASSWORD}, "password_not_taken"),
        (Door(steps=DIALOGUE, rounds=[ASK, (CHANGE, [("Current password: ", False)])]), {"password": PASSWORD}, "password_expired"),
        (Door(steps=DIALOGUE, rounds=[ASK, (CHANGE, []), ("", [("New password: ", False)])]), {"password": PASSWORD}, "password_expired"),
        (Door(steps=DIALOGUE, rounds=[ASK, ("", [("New password: ", False), ("Retype: ", False)])]), {"password": PASSWORD}, "password_expired"),
        (Door(wants_change=True), {"password": PASSWORD}, "password_expired"),
        (Door(at_success=ACCOUNT), {"password": PASSWORD}, "account_expired"),
        (Door(at_success=ACCOUNT), {"key": True}, "account_expired"),
        (Door(at_success=""), {"key": True}, "closed_at_sign_in"),
        (Door(at_success="System is going down."), {"key": True}, "lost_at_sign_in"),
        (Door(steps=DIALOGUE, rounds=[("", [("Verification code: ", False)])]), {"password": PASSWORD}, "asks_more"),
        (Door(steps=DIALOGUE, rounds=[("", [("Colour: ", True)])]), {"password": PASSWORD}, "asks_more"),
        (Door(steps=DIALOGUE, rounds=[ASK, ("", [("Verification code: ", False)])]), {"password": PASSWORD}, "asks_more"),
        (Door(most_tries=1), {"password": "wrong"}, "authentication_failed"),
        (Door(most_tries=1, takes_key=False), {"key": True, "password": "wrong"}, "authentication_failed"),
        (Door(most_tries=1, steps=BOTH), {"key": True, "password": "wrong"}, "password_refused"),
    ],
)  # fmt: skip
def test_reason_is_told_when_the_sign_in_fails(door: Door, given: dict[str, object], code: str) -> None:
    error = refusal(door, **given)  # type: ignore[arg-type]
    assert error.code == code
    for words in (CHANGE, ACCOUNT, "System is going down.", "Verification code:"):
        said = str(door.rounds) + str(door.at_success)
        assert (words in error.detail) == (words in said)
    assert ("Too many authentication failures" in error.detail) == (door.most_tries == 1)


def test_stored_password_is_not_given_to_other_questions() -> None:
    door = Door(steps=DIALOGUE, rounds=[ASK, ("", [("New password: ", False)]), ("", [("Retype: ", False)])])
    refusal(door, password=PASSWORD)
    assert door.answers == [[PASSWORD]]


def test_wrong_password_is_given_once() -> None:
    """Hosts shut out whoever is wrong too often."""
    door = Door(steps=("password,keyboard-interactive",))
    refusal(door, password="wrong")
    assert door.tries == ["password"]
    door = Door(steps=DIALOGUE, rounds=[ASK, ASK])
    assert refusal(door, password=PASSWORD).code == "authentication_failed"
    assert door.answers == [[PASSWORD]]


def test_password_is_tried_anew_when_the_server_ends_the_connection_after_the_key() -> None:
    with open_door(Door(most_tries=1, takes_key=False)) as door:
        Connection.open(door.endpoint(key=True, password=PASSWORD), 10).close()
    assert door.tries == ["publickey", "password"]


@pytest.mark.parametrize("words", [f"{CHANGE}\n{ACCOUNT}", "Your password has expired."])
def test_expiry_is_no_diagnosis_when_the_banner_speaks_of_it(words: str) -> None:
    assert refusal(Door(banner=words), password="wrong").code == "authentication_failed"
    assert refusal(Door(banner=words, at_success=""), key=True).code == "closed_at_sign_in"
