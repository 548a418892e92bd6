"""Settings resolved with TRACT on the digits."""

import pytest

from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError


def resolved(**settings):
    return resolve({"method": "tract", "dataset": "digits"} | settings)


def config(**settings):
    return resolved(**settings)[0]


def refusal(settings):
    with pytest.raises(ConfigError) as caught:
        resolve(settings)
    return str(caught.value)
