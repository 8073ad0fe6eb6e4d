"""Model providers: what a model says, as parts. SDKs and their chunks never leave this folder."""
