"""Who may do what through the HTTP interface: tokens with roles, sessions of browsers, and forged requests.

Only the SHA-256 of a token is configured, so that the configuration is no secret. Without tokens everyone has
every role, which is only allowed where the interface listens on loopback.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from nearfar.errors import InputError, one_of

TOKEN_PREFIX = "nf_"
SESSION_S = 12 * 3600.0
"""A browser is logged out so long after its last request."""
MOST_SESSIONS = 1000
"""The oldest sessions end when there are more."""
FAILED_LOGINS, FAILED_LOGINS_S = 10, 60.0
"""After so many wrong tokens within so many seconds, an address is refused until they are over."""


class Role(IntEnum):
    """What a token allows; every role includes those before it."""

    VIEW = 1
    """See states, scores and alarms, and listen to their sound."""
    OPERATE = 2
    """Acknowledge, shelve, take out of service and write notes."""
    CONFIGURE = 3
    """Change detectors: this is normal, this is a fault, undo."""

    @classmethod
    def of(cls, name: str) -> Role:
        """The role of that name in lower case.

        Raises:
            InputError: if there is none.
        """
        if name.upper() not in cls.__members__:
            names = [role.name.lower() for role in cls]
            raise InputError("role", found=repr(name), expected=one_of(names, name), remedy="Correct it")
        return cls[name.upper()]

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Token:
    """A configured token: the name of its holder, its role, and the SHA-256 of its text in hex digits."""

    name: str
    role: Role
    sha256: str


@dataclass(slots=True)
class Session:
    """A request's or browser's holder of a token.

    Attributes:
        name: of the token, which actions are recorded under.
        role: what it allows.
        form_key: that every form of this session sends along; None where requests carry the token itself.
        used_s: when it was used last, by the monotonic clock.
        id: of the cookie; None where there is none.
    """

    name: str
    role: Role
    form_key: str | None
    used_s: float = 0.0
    id: str | None = None


def new_token() -> str:
    """A random token of 256 bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_sha256(text: str) -> str:
    """The SHA-256 of a token in hex digits, for the configuration."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches a server that listens on that address."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_tokens(host: str, tokens: Sequence[Token]) -> None:
    """Refuse to listen without tokens where other computers reach the address.

    Raises:
        InputError: if there are none.
    """
    if not tokens and not is_loopback(host):
        raise InputError(
            "page.host",
            found=f"{host} without tokens",
            expected="tokens, as other computers reach this address, or 127.0.0.1",
            remedy="Make one with nearfar token, and add it to the configuration",
        )


class Access:
    """Checks tokens and holds the sessions of browsers. Sessions end when the program ends.

    Args:
        tokens: that are accepted; none: everyone may do everything.
        clock: monotonic seconds.
    """

    def __init__(self, tokens: Sequence[Token], clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tuple(tokens)
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._failed: dict[str, list[float]] = {}
        # Other sites cannot read pages, so they lack the key of its forms.
        self.everyone = None if tokens else Session("local", Role.CONFIGURE, secrets.token_urlsafe(24))
        """The session of all requests where there are no tokens; None where there are."""

    def holder(self, text: str, address: str) -> Token | None:
        """The token of that text, or None if it is wrong or the address has sent too many wrong ones.

        Args:
            text: of the token.
            address: of the client.
        """
        now = self._clock()
        with self._lock:
            recent = [moment for moment in self._failed.get(address, []) if now - moment < FAILED_LOGINS_S]
            if len(recent) >= FAILED_LOGINS:
                return None
            digest = token_sha256(text)
            found = None
            for token in self._tokens:  # all of them: the time taken says nothing about which one is alike
                found = token if hmac.compare_digest(token.sha256.lower(), digest) else found
            if found is None:
                self._failed = {
                    other: times for other, times in self._failed.items() if now - times[-1] < FAILED_LOGINS_S
                }
                self._failed[address] = [*recent, now]
            return found

    def start(self, token: Token) -> Session:
        """A new session of a browser."""
        now = self._clock()
        session = Session(token.name, token.role, secrets.token_urlsafe(24), now, secrets.token_urlsafe(32))
        assert session.id is not None
        with self._lock:
            self._sessions = {key: each for key, each in self._sessions.items() if now - each.used_s < SESSION_S}
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used_s)]
            self._sessions[session.id] = session
        return session

    def session(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if it has one that has not ended."""
        now = self._clock()
        with self._lock:
            session = self._sessions.get(cookie or "")
            if session is None:
                return None
            if now - session.used_s >= SESSION_S:
                del self._sessions[cookie or ""]
                return None
            session.used_s = now
            return session

    def end(self, session: Session) -> None:
        """Log a browser out."""
        with self._lock:
            self._sessions.pop(session.id or "", None)


def is_own_form(session: Session, form_key: object) -> bool:
    """Whether a form was sent by a page of this session, and not by another site."""
    expected = session.form_key
    return expected is not None and isinstance(form_key, str) and hmac.compare_digest(expected, form_key)
