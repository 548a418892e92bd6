"""What the Hub and the way to it can say, in one line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tractbench.errors import TractbenchError, one_line

AGAIN = "the same command goes on from there"


class HubError(TractbenchError):
    """Something that the Hub refused, or that could not be reached."""


class ChangedRepositoryError(HubError):
    """A repository that somebody else changed meanwhile."""


@contextmanager
def told(repository: str, endpoint: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a HubError of one line; bugs go through.

    Args:
        repository: what is asked for, for the message.
        endpoint: the Hub's address.

    Raises:
        HubError: the Hub refused something, or was not reached.
        ChangedRepositoryError: somebody else changed the repository.
    """
    try:
        yield
    except TractbenchError:
        raise
    except (_transport(), OSError, RuntimeError, ValueError) as error:
        found = _explained(error, repository, endpoint)
        if found is None:
            raise
        raise found from error


def _explained(error: BaseException, repository: str, endpoint: str) -> HubError | None:
    """Return a line for an error by what caused it, None for what is none of the Hub's."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    transport = _transport()
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, HfHubHTTPError) and getattr(one, "response", None) is not None:
            return _by_status(one, repository, endpoint)
        if isinstance(one, OfflineModeIsEnabled):
            return HubError(f"HF_HUB_OFFLINE is set, and {repository} is on the Hub; unset it to go on")
    for one in chain:
        if isinstance(one, OSError) and one.filename is not None and one.strerror:
            return HubError(f"cannot use {one.filename}: {one.strerror}; mend that, and {AGAIN}")
        if isinstance(one, transport | ConnectionError | TimeoutError):
            reason = one_line(str(one)) or type(one).__name__
            return HubError(f"cannot reach {endpoint} for {repository} ({reason}); {AGAIN}")
    if isinstance(error, OSError | RuntimeError) or "LFS" in str(error):
        return HubError(f"{repository} at {endpoint}: {one_line(str(error)) or type(error).__name__}; {AGAIN}")
    return None


def _transport() -> type[Exception]:
    """Return the base of all failures of the HTTP library that this version of huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__mro__[1]
    assert issubclass(base, Exception)
    return base


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _by_status(error: BaseException, repository: str, endpoint: str) -> HubError:
    """Return the line for a status of HTTP; ``error`` is an HfHubHTTPError of any version."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    headers = getattr(response, "headers", None) or {}
    where = f"{repository} at {endpoint}"
    said = one_line(str(getattr(error, "server_message", None) or ""))
    if status == 401:
        return HubError(f"{where}: no such repository for you, or the token is not accepted; log in: hf auth login")
    if status == 403:
        return HubError(f"{where}: this token may not do that; use one that may write there, of your settings' tokens")
    if status == 404:
        return HubError(f"{where}: it is not there, or is private and not yours to see; check its name and the token")
    if status in (409, 412):
        return ChangedRepositoryError(f"{where} was changed by somebody else meanwhile; {AGAIN}")
    if status == 429:
        wait = headers.get("Retry-After")
        return HubError(
            f"{where}: too many requests; try again {f'in {one_line(wait)} s' if wait else 'later'}, {AGAIN}"
        )
    if isinstance(status, int) and status >= 500:
        return HubError(f"{where}: the Hub has trouble (HTTP {status}); try later, {AGAIN}")
    return HubError(f"{where}: refused (HTTP {status}{f': {said}' if said else ''})")
