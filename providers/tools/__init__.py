"""Tools for an endpoint that has none: schemas and results go into its prompt, calls come back out of its text.

In come a conversation with tools, and deltas of text; out go the same conversation as text, and deltas with calls.
"""
