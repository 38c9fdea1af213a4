"""Answers as endpoints send them: the bytes of a response become canonical events, and events become whole choices.

In come the bytes of a 200 response, cut anywhere; out go `providers.events` in order. Whether the bytes that came are a
whole answer is for the caller to judge. Nothing here knows which endpoint sent them: all shapes are read everywhere.
"""
