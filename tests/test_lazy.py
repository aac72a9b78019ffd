"""Public names are imported on first use, found once, and an unknown one is refused with the list."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tianwen
import tianwen.extract
import tianwen.optim


@pytest.mark.parametrize("package", [tianwen, tianwen.extract, tianwen.optim])
def test_every_public_name_is_there_and_listed(package):
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]
    with pytest.raises(AttributeError, match=rf"{package.__name__} has no 'Oracle'; .*{package.__all__[0]}"):
        package.Oracle  # noqa: B018


def test_the_packages_cost_nothing_until_a_name_is_used():
    code = "import sys, tianwen, tianwen.extract, tianwen.optim; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
