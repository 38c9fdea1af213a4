"""Answers that have to be JSON where no engine holds them to it: shaped as they come, checked, repaired once.

In come deltas and the format that is wanted; out go deltas of JSON, and what is wrong with a text. Callers' schemas
are checked where they can harm nobody.
"""
