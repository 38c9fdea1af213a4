"""Answers that must be JSON: what is asked for, how a prompt says so, where it stands in a text, whether it fits.

In come a request's `response_format`, or an answer's text as it arrives; out go words for a prompt, the JSON without
what stands around it, and why a value does not fit its schema. Nothing here knows an endpoint's dialect.
"""
