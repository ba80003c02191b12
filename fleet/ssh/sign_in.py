"""Signing in (RFC 4252, RFC 4256): which ways a server takes, what the panel has for them, and why none worked.

Not by paramiko's own calls: these ask for the service anew before each try, which some servers refuse, answer any question
of a dialogue with the password, and lose what the host says.
"""

import queue
import re
import time
from dataclasses import dataclass

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_REQUEST,
    MSG_USERAUTH_SUCCESS,
    cMSG_SERVICE_REQUEST,
    cMSG_USERAUTH_INFO_RESPONSE,
    cMSG_USERAUTH_REQUEST,
)

from fleet.ssh.errors import AuthenticationFailed, TimedOut, Unreachable
from fleet.ssh.shell import what_expired
from fleet.ssh.transport import Transport

KEY, PASSWORD, DIALOGUE = "publickey", "password", "keyboard-interactive"
_WAYS = (KEY, PASSWORD, DIALOGUE)
# Questions without echo that want something else than the password.
_OTHER_SECRET = re.compile(
    r"\b(codes?|passcode|otp|one[- ]time|token|pin|factor|duo|yubikey)\b", re.IGNORECASE
)
_NEW_PASSWORD = re.compile(r"\W*(new|current|retype|re-enter|enter new)\b.*password", re.IGNORECASE)
_TOO_MANY = "too many authentication failures"  # OpenSSH's auth.c, at MaxAuthTries
_MOST_WORDS = 20


@dataclass(frozen=True)
class _Answer:
    """What a server said to a request. `kind`: ready, success, failure, question, ended."""

    kind: str
    methods: tuple[str, ...] = ()
    is_partial: bool = False
    text: str = ""
    prompts: tuple[tuple[str, bool], ...] = ()


class _Dialogue(AuthHandler):
    """paramiko's transport hands it the server's messages, and each is an answer for the thread that signs in.

    `said` holds what the host said beside its answers: banners, and a dialogue's instructions.
    """

    def __init__(self, transport: Transport, user: str, deadline: float) -> None:
        super().__init__(transport)
        self._transport = transport
        self._deadline = deadline
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._user = user
        self.said: list[str] = []
        transport.auth_handler = self

    @property
    def _handler_table(self) -> dict[int, object]:
        return {
            MSG_SERVICE_ACCEPT: lambda _message: self._put(_Answer("ready")),
            MSG_USERAUTH_SUCCESS: self._take_success,
            MSG_USERAUTH_FAILURE: self._take_failure,
            MSG_USERAUTH_BANNER: lambda message: self.hear(message.get_text()),
            MSG_USERAUTH_INFO_REQUEST: self._take_question,
        }

    def abort(self) -> None:
        """Called when the connection has ended."""
        self._put(_Answer("ended"))

    def _put(self, answer: _Answer) -> None:
        if not self.authenticated:  # nobody listens any more
            self._answers.put(answer)

    def hear(self, words: str) -> None:
        """Keep words of the host."""
        if words.strip() and len(self.said) < _MOST_WORDS:
            self.said.append(words.strip()[:1000])

    def _take_success(self, message: paramiko.Message) -> None:
        super()._parse_userauth_success(message)  # type: ignore[misc]
        self._answers.put(_Answer("success"))

    def _take_failure(self, message: paramiko.Message) -> None:
        methods = tuple(name for name in message.get_list() if name)
        self._put(_Answer("failure", methods, is_partial=message.get_boolean()))

    def _take_question(self, message: paramiko.Message) -> None:
        # The number means different things: a dialogue's questions, or that the password has to be changed (RFC 4252 section 8).
        if self.auth_method != DIALOGUE:
            self._put(_Answer("question", text=message.get_text()))
            return
        title, instruction = message.get_text(), message.get_text()
        message.get_text()  # the language
        count = min(message.get_int(), _MOST_WORDS)
        prompts = tuple((message.get_text(), message.get_boolean()) for _ in range(count))
        self._put(_Answer("question", text=f"{title}\n{instruction}", prompts=prompts))

    def answer(self) -> _Answer:
        """The server's next one. Raises TimedOut."""
        while True:
            try:
                return self._answers.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() >= self._deadline:
                    raise TimedOut from None
                if not self._transport.is_active():
                    return _Answer("ended")

    def request_service(self) -> _Answer:
        message = paramiko.Message()
        message.add_byte(cMSG_SERVICE_REQUEST)
        message.add_string("ssh-userauth")
        self._send(message)
        return self.answer()

    def request(self, method: str, *fields: str | bytes | bool) -> _Answer:
        """Try a method."""
        self.auth_method = method
        message = paramiko.Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for name in (self._user, "ssh-connection", method):
            message.add_string(name)
        for value in fields:
            if isinstance(value, bool):
                message.add_boolean(value)
            else:
                message.add_string(value)
        self._send(message)
        return self.answer()

    def reply(self, *replies: str) -> _Answer:
        """Answer the questions of a dialogue."""
        message = paramiko.Message()
        message.add_byte(cMSG_USERAUTH_INFO_RESPONSE)
        message.add_int(len(replies))
        for reply in replies:
            message.add_string(reply)
        self._send(message)
        return self.answer()

    def request_by_key(self, key: paramiko.PKey) -> _Answer:
        """Raises paramiko.AuthenticationException when the server takes no signature that the key can make."""
        kind, bits = self._get_key_type_and_bits(key)  # type: ignore[attr-defined]
        algorithm = self._finalize_pubkey_algorithm(kind)  # type: ignore[attr-defined]
        signed = self._get_session_blob(key, "ssh-connection", self._user, algorithm)  # type: ignore[attr-defined]
        signature = key.sign_ssh_data(signed, algorithm)
        return self.request(KEY, True, algorithm, bits.asbytes(), signature.asbytes())

    def _send(self, message: paramiko.Message) -> None:
        self._transport._send_user_message(message)  # type: ignore[attr-defined]


class SignIn:
    """A sign-in with a key, a password or both. Servers that end the connection after a few tries are tried again with what is left."""

    def __init__(self, user: str, key: paramiko.PKey | None, password: str) -> None:
        self._user = user
        self._key = key
        self._password = password
        self._refused: set[str] = set()
        self._given: list[str] = []
        self._is_key_of_no_use = False

    def run(self, transport: Transport, deadline: float) -> bool:
        """Sign in on a connection; False when the server ended it before everything was tried: then run it on another.

        Raises AuthenticationFailed, Unreachable, TimedOut.
        """
        self._given = []
        dialogue = _Dialogue(transport, self._user, deadline)
        answer = dialogue.request_service()
        if answer.kind == "ready":
            answer = dialogue.request("none")  # which costs no try, and tells the ways
        # What is said up to here is for everybody who comes.
        dialogue.said.clear()
        way = ""
        while answer.kind == "failure":
            methods = answer.methods
            way = self._next(methods)
            if not way:
                raise self._error(methods, dialogue.said)
            answer = self._try(way, dialogue, methods)
            if answer.is_partial:
                self._given.append(way)
            elif answer.kind == "failure":
                self._refused.add(way)
                self._raise_if_expired(dialogue.said)
        if answer.kind == "success":
            return True
        self._raise_if_expired(dialogue.said)
        words = "; ".join([*dialogue.said, transport.farewell]).strip("; ")
        if way:
            self._refused.add(way)
            if self._next(_WAYS):
                return False
            if _TOO_MANY in transport.farewell.lower():
                raise self._error((), [words])
        raise Unreachable(code="lost_at_sign_in" if words or not way else "closed_at_sign_in", detail=words)

    def _next(self, methods: tuple[str, ...]) -> str:
        """The next way to try among those the server takes; empty when there is none."""
        tried = {*self._refused, *self._given}
        for way in _WAYS:
            has_secret = self._key is not None if way == KEY else bool(self._password)
            # A dialogue would ask for the same password again.
            is_twice = {DIALOGUE: PASSWORD, PASSWORD: DIALOGUE}.get(way) in self._refused
            if has_secret and not is_twice and way not in tried and (way in methods or not methods):
                return way
        return ""

    def _try(self, way: str, dialogue: _Dialogue, methods: tuple[str, ...]) -> _Answer:
        if way == KEY:
            assert self._key is not None
            try:
                return dialogue.request_by_key(self._key)
            except paramiko.AuthenticationException:
                self._is_key_of_no_use = True
                return _Answer("failure", methods)
        if way == PASSWORD:
            answer = dialogue.request(PASSWORD, False, self._password)
            if answer.kind == "question":
                raise AuthenticationFailed(code="password_expired", detail=answer.text)
            return answer
        answer = dialogue.request(DIALOGUE, "", "")
        asked = ""
        while answer.kind == "question":
            dialogue.hear(answer.text)
            if not answer.prompts:
                answer = dialogue.reply()
                continue
            question, is_shown = answer.prompts[0]
            if len(answer.prompts) > 1 or is_shown or asked or _OTHER_SECRET.search(question):
                if question == asked:
                    return _Answer("failure", methods)  # the same again: it was wrong
                for prompt, _is_shown in answer.prompts:
                    dialogue.hear(prompt)
                self._raise_if_expired(dialogue.said)
                code = "password_expired" if asked and _NEW_PASSWORD.match(question) else "asks_more"
                raise AuthenticationFailed(code=code, detail=" ".join(dialogue.said))
            asked = question
            answer = dialogue.reply(self._password)
        return answer

    @staticmethod
    def _raise_if_expired(said: list[str]) -> None:
        words = "\n".join(said)
        if code := what_expired(words):
            raise AuthenticationFailed(code=code, detail=" ".join(words.split()))

    def _error(self, wanted: tuple[str, ...], said: list[str]) -> AuthenticationFailed:
        """Why nothing that the panel has was enough."""
        methods = ", ".join(wanted)
        detail = " ".join(said) or methods
        passwords = {PASSWORD, DIALOGUE}
        if self._given:
            has_given_key = self._given[-1] == KEY
            others = passwords if has_given_key else {KEY}
            if others & self._refused:
                code = "password_refused" if has_given_key else "key_refused"
                return AuthenticationFailed(code=code, detail=detail)
            if others.intersection(wanted):
                return AuthenticationFailed(code="key_and_password", detail=methods)
            return AuthenticationFailed(code="more_wanted", methods=methods)
        if not self._refused and (self._password or self._key):
            code = "password_not_taken" if self._password else "key_not_taken"
            return AuthenticationFailed(code=code, methods=methods)
        if self._is_key_of_no_use and self._refused == {KEY}:
            return AuthenticationFailed(code="key_kind_not_taken", detail=detail)
        return AuthenticationFailed(detail=detail)
