"""What the tests of this folder share."""

from tests.conformance.fixtures import *  # noqa: F403 - fixtures are found by name
