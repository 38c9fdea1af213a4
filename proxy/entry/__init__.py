"""The door: who calls, what was sent, how much at once, and how a refusal is worded.

In come a request's headers and body, out go a key's record and bytes within their limits, or an `ApiError`.
"""
