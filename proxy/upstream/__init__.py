"""HTTP/1.1 to the endpoints: bytes of a request out, bytes of a response handed straight to whoever reads them.

Knows nothing of what the bytes mean; every way to fail becomes a `providers.events.Failure`.
"""
