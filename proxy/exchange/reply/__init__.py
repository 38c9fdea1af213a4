"""What the client is sent, and what is kept of it for an Idempotency-Key.

In come deltas, reports and a bill; out go the bytes of the response. `reply.Reply` is the only one that writes to the
client. May touch the client's connection; knows no endpoint and no ledger but the store's kept answers.
"""
