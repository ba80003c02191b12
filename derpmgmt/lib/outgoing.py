"""What became of a question to somebody else's service that was not answered."""

import ssl
import traceback

_HANDSHAKE = ssl.SSLSocket.do_handshake.__code__


def never_connected(error: BaseException | None) -> bool:
    """Whether a request by `requests` over TLS ended before there was a connection, so that nothing of it has left.

    Anything else (no answer in time, a line that broke, an answer that is none) may have arrived all the same.
    """
    # Imported where they are needed: few processes ask anything.
    from requests.exceptions import ConnectTimeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    while error is not None:
        if isinstance(error, (ConnectTimeout, ConnectTimeoutError, NewConnectionError)):
            return True
        # By its kind alone, an error of the handshake looks like one of the connection that it would have made.
        if any(frame.f_code is _HANDSHAKE for frame, _line in traceback.walk_tb(error.__traceback__)):
            return True
        error = error.__cause__ or error.__context__
    return False
