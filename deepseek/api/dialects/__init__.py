"""Public forms of the one request path. Each is a thin adapter: fields in, bytes out; nothing else knows a dialect."""
