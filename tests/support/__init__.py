"""Real parts for the tests: private Redis servers, child processes, raw SSE readers."""
