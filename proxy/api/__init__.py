"""The public HTTP API: which path is served by what, and what a key may look at.

In come aiohttp requests, out go responses in the caller's dialect. What answers a model request is `exchange`'s.
"""
