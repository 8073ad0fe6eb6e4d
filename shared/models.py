"""Model names: `provider/name`. Which providers there are is said once, here; what they do is the worker's."""

from shared.errors import UnknownModel

PROVIDERS = ("anthropic", "demo", "openai")
DEMO_MODELS = ("demo/echo", "demo/lorem")
PIPELINES = ("chat",)
"""Pipelines that ship with Holdfast. A deployment's own ones are known to its workers only."""


def check_model(model: str) -> str:
    """Give the model back if its provider is known; raises UnknownModel."""
    provider, _, name = model.partition("/")
    if provider not in PROVIDERS or not name or (provider == "demo" and model not in DEMO_MODELS):
        raise UnknownModel(model, ", ".join(PROVIDERS))
    return model
