"""Who asks: callers, their keys and tokens, and how a request proves whose it is."""
