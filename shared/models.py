"""Model names: `provider/name`. Which providers there are is said once, here; what they do is the worker's."""

import re
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.errors import UnknownModel

PROVIDERS = ("anthropic", "demo", "openai", "openai-responses")
"""Those that need no configuration. `openai` speaks Chat Completions, `openai-responses` the Responses API."""
DEMO_MODELS = ("demo/echo", "demo/lorem")
PREFIX = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class ModelConfig(BaseModel):
    """A provider of a deployment's own, as HOLDFAST_MODELS has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sdk: Literal["openai-chat", "openai-responses", "anthropic", "demo"]
    base_url: str | None = None
    """None: the SDK's own, or what its environment variable says."""
    key_env: str | None = None
    """Environment variable with the key. None: the SDK's own variable for the SDK's own URL, no key for others."""


def check_model(model: str, configured: Collection[str]) -> str:
    """Give the model back if its provider is known; raises UnknownModel."""
    provider, _, name = model.partition("/")
    known = sorted({*PROVIDERS, *configured})
    if provider not in known or not name or (provider == "demo" and model not in DEMO_MODELS):
        raise UnknownModel(model, ", ".join(known))
    return model
