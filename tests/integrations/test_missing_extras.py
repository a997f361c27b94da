"""An integration is imported on demand, and says which extra it misses."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
for package in {packages}:
    sys.modules[package] = None  # what an environment without it looks like
import midas_aug
assert not any(name.startswith("midas_aug.integrations") for name in sys.modules)
try:
    import midas_aug.integrations.{module}
except midas_aug.MidasAugError as error:
    print(error)
"""


def told(module: str, *packages: str) -> str:
    script = SCRIPT.format(module=module, packages=packages)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("module", "package"), [("lightning", "lightning"), ("huggingface", "transformers")]
)
def test_the_message_names_the_extra(module, package):
    message = told(module, package)
    assert f"expected {package} for" in message
    assert f"pip install '.[{module}]'" in message


@pytest.mark.parametrize("module", ["module", "distributed", "keras", "loaders"])
def test_what_needs_no_extra_is_imported_without_any(module):
    assert told(module, "lightning", "transformers", "accelerate", "keras", "torchdata") == ""
