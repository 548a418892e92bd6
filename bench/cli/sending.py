"""What the verbs that send to the Hub share: their flags, what they say and ask first, and what they say after."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tractbench.cli.options import Json, Quiet, progress
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError

if TYPE_CHECKING:
    from tractbench.hub.client import Hub
    from tractbench.hub.upload import Upload
    from tractbench.progress import Progress

REFUSED = 1
"""Exit status where something was refused or left out, or the user said no."""


@dataclass(frozen=True, kw_only=True)
class Sending:
    """How something is sent: the flags of every verb of ``tractbench push``."""

    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False
    as_json: Json = False
    quiet: Quiet = False

    def hub(self) -> Hub:
        """Return the user's Hub.

        Raises:
            ConfigError: something may be sent, and there is no token.
        """
        from tractbench.hub.client import Hub

        hub = Hub()
        if not self.dry_run:
            hub.require_token()
        return hub

    @property
    def progress(self) -> Progress:
        """What draws progress bars, or nothing."""
        return progress(self.quiet or self.as_json)

    def send(
        self,
        hub: Hub,
        upload: Upload,
        message: str,
        text: str,
        lists: Mapping[str, object],
        *,
        pull: Literal["store", "student"],
        refused: bool,
        left_out: bool = False,
    ) -> int:
        """Say what is to be sent, ask, send it, and say that it was.

        Args:
            hub: where to.
            upload: what.
            message: of the commit.
            text: what it is, and what of it is there already.
            lists: what ``--json`` has of it.
            pull: the verb of ``tractbench pull`` that takes it.
            refused: something is in conflict with what is there, so that nothing is sent.
            left_out: something stays here for another reason.

        Returns:
            The exit status.

        Raises:
            ConfigError: there is nobody to ask.
            HubError: the Hub refused, or was not reached.
        """
        commit = self._send(hub, upload, message, text, refused)
        if self.as_json:
            print(to_json({**_described(hub, upload, commit), **lists}))
        elif commit and not self.quiet:
            address = f"{hub.endpoint}/{'datasets/' if upload.kind == 'dataset' else ''}{upload.name}"
            print(f"{address} at {commit[:12]}; others take it with: tractbench pull {pull} {upload.name}")
        return REFUSED if refused or left_out or (commit is None and not self.dry_run) else 0

    def _send(self, hub: Hub, upload: Upload, message: str, text: str, refused: bool) -> str | None:
        """Return the commit; None if nothing was sent."""
        made = "" if upload.before else ", to be made"
        lines = [f"{upload.kind} {upload.name} at {hub.endpoint}, {upload.visibility}{made}: {text}"]
        lines.append(f"{len(upload.files)} files, {_amount(upload.size)}" if upload.groups else "nothing to send")
        if not (self.quiet or self.as_json) or not (self.yes or self.dry_run or refused):
            print("\n".join(lines), file=sys.stderr)
        if refused or self.dry_run:
            reason = ", as it is in conflict with what is there" if refused else ""
            print(f"nothing was sent{reason}", file=sys.stderr)
            return None
        if not upload.groups:
            return upload.before.commit if upload.before else None
        if not self.yes and not _asked():
            print("nothing was sent", file=sys.stderr)
            return None
        return upload.send(hub, f"tractbench: {message}", self.progress)


def with_sending(verb: Callable[..., int]) -> Callable[..., int]:
    """Give a verb the flags of :class:`Sending`, which it takes as its first argument."""
    flags = inspect.signature(Sending, eval_str=True).parameters

    @functools.wraps(verb)
    def parsed(**values: Any) -> int:
        return verb(Sending(**{name: values.pop(name) for name in flags}), **values)

    signature = inspect.signature(verb, eval_str=True)
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in list(signature.parameters.values())[1:]]
    parameters = [*own, *flags.values()]
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {one.name: one.annotation for one in parameters}
    del parsed.__wrapped__
    return parsed


def _asked() -> bool:
    """Return the user's answer.

    Raises:
        ConfigError: there is nobody to ask.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("nothing was sent, as there is no terminal to ask on; --yes sends without asking")
    return typer.confirm("Send them?", default=False, err=True)


def _described(hub: Hub, upload: Upload, commit: str | None) -> dict[str, object]:
    """Return the fields that each --json has."""
    return {
        "repository": upload.name,
        "kind": upload.kind,
        "endpoint": hub.endpoint,
        "visibility": upload.visibility,
        "new": upload.before is None,
        "files": upload.files,
        "bytes": upload.size,
        "commit": commit,
    }


def _amount(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
