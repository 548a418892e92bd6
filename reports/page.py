"""What every page shares: templates that escape what they are given, one head (``templates/page.html``), one style."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment() -> Environment:
    """Return the environment of the pages' templates."""
    return Environment(
        loader=PackageLoader("tractbench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
